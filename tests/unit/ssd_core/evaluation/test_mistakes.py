"""What is got wrong at the working threshold, worst first, and why."""

import pytest

from ssd_core.evaluation import evaluate
from ssd_core.evaluation.mistakes import false_alarms, misses
from tests.unit.ssd_core.evaluation.scenes import data_set, detected, labelled, random_scenes

HERE, THERE, FAR = [0, 0, 100, 100], [200, 0, 280, 80], [200, 200, 250, 250]


def found_in(image, boxes, scores, names):
    return evaluate([detected(boxes, scores, names)], data_set(image), score_threshold=0.4)


def told(mistakes):
    return [(mistake.label, mistake.reason) for mistake in mistakes]


def test_misses_are_what_was_never_found_then_what_scores_too_low():
    image = labelled([HERE, THERE, FAR, [300, 300, 390, 390]], [1, 1, 2, 2])
    evaluation = found_in(
        image, [HERE, FAR, [300, 300, 390, 390]], [0.9, 0.3, 0.2], ["cat", "dog", "dog"]
    )
    found = misses(evaluation, 0.4)
    assert told(found) == [
        ("cat", "not found at any score"),
        ("dog", "found with 0.20 only"),
        ("dog", "found with 0.30 only"),
    ]
    assert found[0].box_xywh.tolist() == [200, 0, 80, 80]


def test_an_object_found_with_the_score_of_the_threshold_is_missed():
    evaluation = found_in(labelled([HERE], [1]), [HERE], [0.4], ["cat"])
    assert told(misses(evaluation, 0.4)) == [("cat", "found with 0.40 only")]
    assert told(misses(evaluation, 0.39)) == []


def test_of_objects_that_were_never_found_the_largest_comes_first():
    image = labelled([FAR, HERE, THERE], [1, 1, 2])
    sizes = [mistake.box_xywh[2] for mistake in misses(found_in(image, [], [], []), 0.4)]
    assert sizes == [100, 80, 50]


@pytest.mark.parametrize(
    ("box", "name", "reason"),
    [
        (FAR, "cat", "nothing labelled there"),
        ([0, 0, 100, 90], "cat", "found already"),
        ([50, 0, 150, 100], "cat", "beside its place: IoU 0.33"),
        (THERE, "cat", "there is: dog"),
        ([50, 0, 150, 100], "dog", "nothing labelled there"),
    ],
)
def test_a_false_alarm_is_told_with_what_is_there_instead(box, name, reason):
    image = labelled([HERE, THERE], [1, 2])
    evaluation = found_in(image, [HERE, box], [0.95, 0.9], ["cat", name])
    assert told(false_alarms(evaluation, 0.4)) == [(f"{name} 0.90", reason)]


def test_false_alarms_come_by_score_and_none_from_below_the_threshold():
    evaluation = found_in(labelled([HERE], [1]), [FAR, THERE, HERE], [0.4, 0.6, 0.8], ["dog"] * 3)
    assert [m.label for m in false_alarms(evaluation, 0.4)] == ["dog 0.80", "dog 0.60"]


def test_ignored_objects_are_neither_missed_nor_false_alarms():
    image = labelled([HERE, THERE], [1, 1], ignored=[True, False])
    evaluation = found_in(image, [HERE, THERE], [0.9, 0.8], ["cat", "cat"])
    assert misses(evaluation, 0.4) == []
    assert false_alarms(evaluation, 0.4) == []


@pytest.mark.parametrize("seed", range(3))
def test_there_are_as_many_as_precision_and_recall_say(seed):
    labelled_images, detections = random_scenes(seed, crowds=0.3)
    evaluation = evaluate(detections, labelled_images, score_threshold=0.5)
    missed = len(misses(evaluation, 0.5))
    point = evaluation.working
    assert point.recall == pytest.approx(1 - missed / evaluation.objects)
    true = evaluation.objects - missed
    false = len(false_alarms(evaluation, 0.5))
    assert point.precision == pytest.approx(true / (true + false))
