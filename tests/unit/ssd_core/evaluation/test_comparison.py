"""Two detectors on the same images: the difference, and how sure it is."""

import json

import numpy as np
import pytest

from ssd_core.errors import EvaluationError
from ssd_core.evaluation import compare, evaluate
from ssd_core.evaluation.comparison import Difference, _half_widths, _resampled
from ssd_core.training.data import DataSet
from tests.unit.ssd_core.evaluation.scenes import (
    data_set,
    detected,
    labelled,
    pycocotools_evaluation,
    random_scenes,
    two_detectors,
)


def evaluations(seed, images, skills, metric="coco"):
    labelled_images, *both = two_detectors(seed, images, skills)
    return [evaluate(each, labelled_images, metric=metric) for each in both]


@pytest.mark.parametrize(
    "scene",
    [
        {},
        {"whole": False, "false_alarms": 60},
        {"objects": 60, "images": 6, "crowds": 0.5, "skill": 1.0},
        {"objects": 60, "images": 6, "classes": 3},
    ],
)
def test_every_image_once_gives_the_numbers_of_the_library(scene):
    labelled_images, detections = random_scenes(0, **scene)
    evaluation = evaluate(detections, labelled_images)
    once = np.ones((1, len(labelled_images.images)), np.int64)
    numbers = _resampled(evaluation.rankings, once)[0]
    assert numbers[0] == pytest.approx(evaluation.numbers["AP"], abs=1e-6)
    assert numbers[1] == pytest.approx(evaluation.numbers["AP50"], abs=1e-6)


def test_a_draw_equals_pycocotools_on_images_repeated_as_often():
    labelled_images, detections = random_scenes(5, whole=False)
    evaluation = evaluate(detections, labelled_images)
    random = np.random.default_rng(0)
    draws = random.multinomial(20, np.full(20, 1 / 20), 3)
    for draw, numbers in zip(draws, _resampled(evaluation.rankings, draws), strict=True):
        drawn = np.repeat(np.arange(20), draw)
        repeated = DataSet(
            labelled_images.labels, tuple(labelled_images.images[i] for i in drawn), ""
        )
        reference = pycocotools_evaluation(repeated, [detections[i] for i in drawn])
        assert numbers == pytest.approx(reference.stats[:2], abs=1e-6)


def test_many_draws_at_once_give_what_each_gives_alone(monkeypatch):
    labelled_images, detections = random_scenes(6)
    rankings = evaluate(detections, labelled_images).rankings
    draws = np.random.default_rng(0).multinomial(20, np.full(20, 1 / 20), 7)
    together = _resampled(rankings, draws)
    monkeypatch.setattr("ssd_core.evaluation.comparison.NUMBERS_AT_ONCE", 1)
    assert np.allclose(_resampled(rankings, draws), together, rtol=0, atol=1e-12)


def test_a_draw_without_any_object_has_no_number():
    labelled_images = data_set(labelled([[0, 0, 50, 50]], [1]), labelled([], []))
    evaluation = evaluate([detected([], [], [])] * 2, labelled_images)
    numbers = _resampled(evaluation.rankings, np.array([[0, 2], [1, 1]]))
    assert np.isnan(numbers[0]).all()
    assert numbers[1].tolist() == [0, 0]


def test_no_more_detections_of_a_class_in_an_image_count_than_in_coco():
    labelled_images, detections = random_scenes(1, false_alarms=700, images=6, classes=4)
    assert max(len(found) for found in detections) > 300
    evaluation = evaluate(detections, labelled_images)
    numbers = _resampled(evaluation.rankings, np.ones((1, 6), np.int64))[0]
    assert numbers[0] == pytest.approx(evaluation.numbers["AP"], abs=1e-6)
    assert max(np.bincount(ranking.images).max() for ranking in evaluation.rankings[:2]) == 100


def test_of_objects_that_overlap_alike_the_later_is_found_as_in_coco():
    # The first detection lies between both objects, the second on the later one.
    image = labelled([[0, 0, 100, 100], [40, 0, 140, 100]], [1, 1])
    found = detected([[20, 0, 120, 100], [40, 0, 140, 100]], [0.9, 0.8], ["cat", "cat"])
    labelled_images = data_set(image, image)
    evaluation = evaluate([found, found], labelled_images)
    reference = pycocotools_evaluation(labelled_images, [found, found])
    numbers = _resampled(evaluation.rankings, np.ones((1, 2), np.int64))[0]
    assert numbers == pytest.approx(reference.stats[:2], abs=1e-6)
    assert 0.4 < numbers[1] < 0.6


@pytest.mark.parametrize("share", [50, 55, 60, 75, 90, 95])
def test_an_iou_at_a_threshold_falls_on_the_side_that_it_falls_on_in_coco(share):
    labelled_images = data_set(labelled([[0, 0, 100, 100]], [1]))
    detections = [detected([[0, 0, share, 100]], [0.9], ["cat"])]
    evaluation = evaluate(detections, labelled_images)
    reference = pycocotools_evaluation(labelled_images, detections)
    numbers = _resampled(evaluation.rankings, np.ones((1, 1), np.int64))[0]
    assert numbers == pytest.approx(reference.stats[:2], abs=1e-6)
    assert numbers[1] == pytest.approx(1)


def test_an_object_to_be_found_comes_before_a_crowd_that_is_overlapped_more():
    image = labelled([[0, 0, 100, 100], [0, 0, 300, 300]], [1, 1], ignored=[False, True])
    found = detected([[0, 10, 100, 110]], [0.9], ["cat"])  # IoU 0.82; all of it in the crowd
    evaluation = evaluate([found], data_set(image), score_threshold=0.5)
    assert evaluation.working.recall == 1
    numbers = _resampled(evaluation.rankings, np.ones((1, 1), np.int64))[0]
    assert numbers[0] == pytest.approx(evaluation.numbers["AP"], abs=1e-6)
    assert numbers[0] > 0.5


# What may be said


def test_a_clear_difference_is_shown_with_its_direction():
    worse, better = evaluations(0, 60, (0.5, 0.9))
    comparison = compare(worse, better, rounds=200)
    assert comparison.AP.low > 0
    assert comparison.AP.low < comparison.AP.value < comparison.AP.high
    assert comparison.AP.value == pytest.approx(better.AP - worse.AP, abs=1e-6)
    assert comparison.AP50.value == pytest.approx(
        better.numbers["AP50"] - worse.numbers["AP50"], abs=1e-6
    )
    assert comparison.sentence().startswith("B is better than A: AP of B less that of A +0.")
    assert compare(better, worse, rounds=200).sentence().startswith("A is better than B")


def test_a_detector_does_not_differ_from_itself():
    own, _ = evaluations(1, 40, (0.7, 0.7))
    comparison = compare(own, own)
    assert (comparison.AP.low, comparison.AP.value, comparison.AP.high) == (0, 0, 0)
    assert comparison.sentence().startswith("no difference can be shown with these 40 images: ")
    assert comparison.as_json()["better"] is None


def test_few_images_give_wide_intervals():
    widths = []
    for images in (10, 40, 120):
        comparison = compare(*evaluations(2, images, (0.6, 0.8)), rounds=100)
        widths.append(comparison.AP.high - comparison.AP.low)
    assert widths[0] > 1.4 * widths[1] > 1.8 * widths[2]


def test_very_few_images_show_nothing_however_alike_they_are():
    image = labelled([[0, 0, 50, 50]], [1])
    labelled_images = data_set(*[image] * 9)
    nothing = evaluate([detected([], [], [])] * 9, labelled_images)
    all_of_it = evaluate([detected([[0, 0, 50, 50]], [0.9], ["cat"])] * 9, labelled_images)
    comparison = compare(nothing, all_of_it)
    assert comparison.AP == Difference(pytest.approx(1), pytest.approx(1), pytest.approx(1))
    assert comparison.sentence().startswith("no difference can be shown with these 9 images")


def test_the_interval_is_that_of_students_t():
    drawn = np.array([[1.0, 2.0], [-1.0, -2.0]] * 50)  # standard deviations 1 and 2
    student = 2.262  # of 9 degrees of freedom, in any table
    expected = np.array([1, 2]) * student * np.sqrt(10 / 9)
    assert _half_widths(drawn, 10) == pytest.approx(expected, abs=1e-3)


def test_the_same_seed_gives_the_same_interval():
    pair = evaluations(3, 30, (0.6, 0.7))
    assert compare(*pair, rounds=50, seed=4) == compare(*pair, rounds=50, seed=4)
    assert compare(*pair, rounds=50, seed=4) != compare(*pair, rounds=50, seed=5)


def test_images_that_are_alike_are_drawn_together():
    """Each of 15 images six times: as many images, no more knowledge."""
    labelled_images, first, second = two_detectors(4, 15, (0.6, 0.8))
    six_times = np.repeat(np.arange(15), 6)
    repeated = DataSet(
        labelled_images.labels, tuple(labelled_images.images[i] for i in six_times), ""
    )
    once = [evaluate(each, labelled_images) for each in (first, second)]
    often = [evaluate([each[i] for i in six_times], repeated) for each in (first, second)]
    groups = [image.name for image in repeated.images]
    honest = compare(*often, groups=groups, rounds=150)
    careless, alone = compare(*often, rounds=150), compare(*once, rounds=150)
    width = alone.AP.high - alone.AP.low
    assert honest.AP.high - honest.AP.low == pytest.approx(width, rel=0.2)
    assert careless.AP.high - careless.AP.low < width / 1.8
    assert (honest.images, honest.groups, honest.groups_with_objects) == (90, 15, 15)


def test_the_whole_of_it_is_json():
    read = json.loads(json.dumps(compare(*evaluations(5, 20, (0.5, 0.9))).as_json()))
    assert read["better"] == "B"
    assert read["difference"]["AP"]["low"] < read["difference"]["AP"]["value"]
    assert (read["images"], read["rounds"], read["seed"]) == (20, 1000, 0)


def test_draws_without_any_object_do_not_count():
    labelled_images = data_set(labelled([[0, 0, 50, 50]], [1]), *[labelled([], [])] * 11)
    nothing = [detected([], [], [])] * 11
    worse = evaluate([detected([], [], []), *nothing], labelled_images)
    better = evaluate([detected([[0, 0, 50, 50]], [0.9], ["cat"]), *nothing], labelled_images)
    comparison = compare(worse, better)
    assert comparison.AP.value == pytest.approx(1)
    assert (comparison.AP.low, comparison.AP.high) == pytest.approx((1, 1))
    assert (comparison.groups, comparison.groups_with_objects) == (12, 1)
    assert comparison.sentence().startswith("no difference can be shown with these 12 images")


# Errors


def test_evaluations_of_different_objects_are_refused():
    first, _ = evaluations(6, 12, (0.5, 0.5))
    second, _ = evaluations(7, 12, (0.5, 0.5))
    with pytest.raises(EvaluationError, match="not of the same objects"):
        compare(first, second)


def test_one_image_is_refused():
    first, second = evaluations(8, 1, (0.5, 0.5))
    with pytest.raises(EvaluationError, match="one image says nothing about others"):
        compare(first, second)


@pytest.mark.long
@pytest.mark.parametrize("images", [12, 40])
def test_the_interval_holds_the_true_difference_as_often_as_it_says(images):
    """Of 150 made-up data sets: 95 %, give or take three standard errors of that share."""
    skills = (0.6, 0.7)
    labelled_images, first, second = two_detectors(10_000, 6000, skills, side_by_side=False)
    once = np.ones((1, 6000), np.int64)
    rankings = [
        evaluate(each, labelled_images, metric="voc07").rankings for each in (first, second)
    ]
    true = np.subtract(*(_resampled(each, once)[0, 0] for each in reversed(rankings)))
    held = 0
    for seed in range(150):
        # A comparison is COCO's whatever the metric, and VOC's takes less time.
        pair = evaluations(seed, images, skills, metric="voc07")
        comparison = compare(*pair, rounds=200, seed=seed)
        held += comparison.AP.low <= true <= comparison.AP.high
    assert 0.9 <= held / 150 <= 0.995
