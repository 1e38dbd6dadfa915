"""COCO's numbers: equal to pycocotools' on the same detections."""

import json
import sys

import numpy as np
import pytest

from ssd_core.errors import EvaluationError
from ssd_core.evaluation import evaluate
from ssd_core.evaluation.coco import NUMBERS
from tests.unit.ssd_core.evaluation.scenes import (
    data_set,
    detected,
    labelled,
    pycocotools_evaluation,
    random_scenes,
)

SCENES = {
    "ties and IoUs at thresholds": {},
    "no ties": {"whole": False},
    "many crowds": {"crowds": 0.5},
    "crowded images": {"objects": 40, "images": 10},
    "over 100 detections of a class": {"false_alarms": 700, "images": 6, "classes": 4},
    "few classes": {"classes": 3, "images": 8},
    "a poor detector": {"skill": 0.1},
}


def as_coco_has_it(number):
    return -1 if number is None else number


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(s, marks=pytest.mark.long) for s in range(1, 9))]
)
@pytest.mark.parametrize("scene", SCENES)
def test_every_number_equals_that_of_pycocotools(scene, seed):
    labelled_images, detections = random_scenes(seed, **SCENES[scene])
    evaluation = evaluate(detections, labelled_images)
    reference = pycocotools_evaluation(labelled_images, detections)
    assert tuple(evaluation.numbers) == NUMBERS
    numbers = [as_coco_has_it(number) for number in evaluation.numbers.values()]
    assert numbers == pytest.approx(list(reference.stats), abs=1e-6)
    precision = reference.eval["precision"][:, :, :, 0, -1]
    for k, own in enumerate(evaluation.per_class.values()):
        assert as_coco_has_it(own.AP) == pytest.approx(precision[:, :, k].mean(), abs=1e-6)
        assert as_coco_has_it(own.AP50) == pytest.approx(precision[0, :, k].mean(), abs=1e-6)
    assert 0 < evaluation.AP < 1


def test_nothing_detected_is_an_ap_of_0_as_pycocotools_says():
    labelled_images = data_set(labelled([[0, 0, 50, 50]], [1]), labelled([], []))
    detections = [detected([], [], [])] * 2
    evaluation = evaluate(detections, labelled_images)
    reference = pycocotools_evaluation(labelled_images, detections)
    numbers = [as_coco_has_it(number) for number in evaluation.numbers.values()]
    assert numbers == pytest.approx(list(reference.stats), abs=1e-9)
    assert evaluation.AP == 0


def test_a_class_without_objects_has_no_ap_and_is_left_out_of_the_mean():
    image = labelled([[0, 0, 50, 50]], [1])
    found = detected([[0, 0, 50, 50], [100, 100, 150, 150]], [0.9, 0.8], ["cat", "dog"])
    evaluation = evaluate([found], data_set(image))
    assert evaluation.per_class["dog"].AP is None
    assert evaluation.per_class["dog"].objects == 0
    assert evaluation.AP == pytest.approx(1)
    assert evaluation.numbers["AP_small"] is None


def test_json_has_neither_nan_nor_minus_1():
    labelled_images, detections = random_scenes(3)
    evaluation = evaluate(detections, labelled_images, score_threshold=0.999)
    written = json.dumps(evaluation.as_json(), allow_nan=False)
    read = json.loads(written)
    assert set(NUMBERS) < set(read)
    last = read["per_class"]["class 5"]
    assert last["objects"] == 0
    assert (last["AP"], last["AP50"]) == (None, None)
    assert last["working"]["recall"] is None
    assert "-1" not in written


def test_ignored_objects_are_neither_to_be_found_nor_false():
    image = labelled([[0, 0, 50, 50], [100, 0, 150, 50]], [1, 1], ignored=[False, True])
    found = detected([[100, 0, 150, 50], [0, 0, 50, 50]], [0.9, 0.8], ["cat", "cat"])
    evaluation = evaluate([found], data_set(image), score_threshold=0.5)
    assert evaluation.objects == 1
    assert evaluation.AP == pytest.approx(1)
    assert evaluation.working.precision == 1


# Classes meet by their names


def test_classes_meet_by_name_whatever_number_the_model_gives_them():
    image = labelled([[0, 0, 50, 50]], [2])
    found = detected([[0, 0, 50, 50]], [0.9], ["dog"])
    assert found.labels.tolist() == [1]
    assert evaluate([found], data_set(image)).per_class["dog"].AP == pytest.approx(1)


def test_classes_that_one_side_lacks_are_left_out():
    image = labelled([[0, 0, 50, 50], [60, 0, 99, 50]], [1, 2])
    found = detected([[0, 0, 50, 50], [200, 200, 250, 250]], [0.8, 0.9], ["cat", "horse"])
    evaluation = evaluate([found], data_set(image), known=("background", "horse", "cat"))
    assert evaluation.unknown == ("dog",)
    assert list(evaluation.per_class) == ["cat"]
    assert evaluation.objects == 1
    assert evaluation.AP == pytest.approx(1)


@pytest.mark.parametrize("name", ["background", "__background__", "???"])
def test_the_background_is_no_class_even_if_both_call_it_alike(name):
    image = labelled([[0, 0, 50, 50]], [1])
    images = data_set(image, labels=(name, "cat", "dog"))
    expected = "no class in common: the data set has cat, dog; the model has Cat: "
    with pytest.raises(EvaluationError, match=expected):
        evaluate([detected([], [], [])], images, known=(name, "Cat"))


# Errors


def test_detections_of_other_images_than_the_labelled_are_refused():
    with pytest.raises(EvaluationError, match="2 images with detections, 1 with labels"):
        evaluate([detected([], [], [])] * 2, data_set(labelled([], [])))


@pytest.mark.parametrize("ignored", [[], [True]])
def test_a_data_set_with_nothing_to_find_is_refused(ignored):
    image = labelled([[0, 0, 9, 9]] * len(ignored), [1] * len(ignored), ignored)
    with pytest.raises(EvaluationError, match="nothing to find: no image has a labelled object"):
        evaluate([detected([], [], [])], data_set(image))


def test_the_missing_library_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    image = labelled([[0, 0, 50, 50]], [1])
    with pytest.raises(EvaluationError, match=r"pip install 'ssd-worker\[train\]'"):
        evaluate([detected([], [], [])], data_set(image))
    assert evaluate([detected([], [], [])], data_set(image), metric="voc07").AP == 0


def test_detections_stay_as_they_are():
    labelled_images, detections = random_scenes(1, images=4)
    before = [found.boxes.clone() for found in detections]
    evaluate(detections, labelled_images)
    assert all(np.array_equal(a, b.boxes) for a, b in zip(before, detections, strict=True))
