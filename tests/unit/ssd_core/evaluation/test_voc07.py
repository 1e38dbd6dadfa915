"""VOC 2007's AP: by hand, and by its definition in exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ssd_core.evaluation import evaluate
from ssd_core.evaluation.voc07 import eleven_points
from tests.unit.ssd_core.evaluation.scenes import data_set, detected, labelled


def test_a_ranking_by_hand():
    # Recalls .25 .25 .5 .75 .75, precisions 1 1/2 2/3 3/4 3/5: 1 at 0, .1 and .2; 3/4 at .3 to .7.
    is_true = np.array([1, 0, 1, 1, 0], bool)
    assert eleven_points(is_true, ~is_true, 4) == pytest.approx((3 * 1 + 5 * 3 / 4) / 11)


def test_a_recall_of_three_tenths_reaches_the_point_of_three_tenths():
    is_true = np.ones(3, bool)
    assert eleven_points(is_true, ~is_true, 10) == pytest.approx(4 / 11)


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(["true", "false", "ignored"]), max_size=15),
    st.integers(min_value=0, max_value=20),
)
def test_any_ranking_by_the_definition(verdicts, missed):
    objects = verdicts.count("true") + missed
    points = []
    for tenth in range(11):
        best = Fraction(0)
        for end in range(1, len(verdicts) + 1):
            true, false = verdicts[:end].count("true"), verdicts[:end].count("false")
            if objects and true + false and Fraction(true, objects) >= Fraction(tenth, 10):
                best = max(best, Fraction(true, true + false))
        points.append(best)
    found = eleven_points(
        np.array([v == "true" for v in verdicts], bool),
        np.array([v == "false" for v in verdicts], bool),
        objects,
    )
    if objects:
        assert found == pytest.approx(float(sum(points) / 11))
    else:
        assert found is None


def voc07(image, found):
    return evaluate([found], data_set(image), metric="voc07")


def test_an_object_found_twice_is_true_once():
    image = labelled([[0, 0, 100, 100], [200, 0, 300, 100]], [1, 1])
    found = detected(
        [[0, 0, 100, 100], [0, 0, 100, 99], [200, 0, 300, 100]], [0.9, 0.8, 0.7], ["cat"] * 3
    )
    # Precision 1 up to a recall of 1/2, 2/3 up to 1.
    assert voc07(image, found).AP == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_a_detection_belongs_to_the_object_it_overlaps_most_though_that_is_taken():
    # COCO would give the second detection to the second object, whose IoU is 0.58.
    image = labelled([[0, 0, 100, 100], [0, 25, 100, 125]], [1, 1])
    found = detected([[0, 0, 100, 100], [0, 2, 100, 102]], [0.9, 0.8], ["cat"] * 2)
    assert voc07(image, found).AP == pytest.approx(6 / 11)
    assert evaluate([found], data_set(image)).numbers["AP50"] > 0.9


@pytest.mark.parametrize(("width", "is_found"), [(50, True), (49, False)])
def test_an_iou_of_exactly_one_half_is_enough(width, is_found):
    image = labelled([[0, 0, 100, 100]], [1])
    found = detected([[0, 0, width, 100]], [0.9], ["cat"])
    assert voc07(image, found).AP == pytest.approx(1.0 if is_found else 0.0)


def test_difficult_objects_are_ignored_by_iou_not_as_crowds():
    image = labelled([[0, 0, 50, 50], [100, 100, 300, 300]], [1, 1], ignored=[False, True])
    inside = [120, 120, 170, 170]  # all of it in the difficult object, IoU 1/16: false
    on_it = [100, 100, 300, 300]  # neither true nor false, twice
    found = detected([on_it, on_it, [0, 0, 50, 50]], [0.9, 0.85, 0.8], ["cat"] * 3)
    assert voc07(image, found).AP == pytest.approx(1)
    assert voc07(image, detected([on_it], [0.9], ["cat"])).AP == 0
    found = detected([inside, [0, 0, 50, 50]], [0.9, 0.8], ["cat"] * 2)
    assert voc07(image, found).AP == pytest.approx(1 / 2)


def test_the_mean_is_over_classes_that_have_objects():
    image = labelled([[0, 0, 50, 50]], [1])
    found = detected([[0, 0, 50, 50], [0, 0, 50, 50]], [0.9, 0.9], ["cat", "dog"])
    evaluation = voc07(image, found)
    assert list(evaluation.numbers) == ["AP"]
    assert evaluation.AP == pytest.approx(1)
    assert evaluation.per_class["dog"].AP is None
