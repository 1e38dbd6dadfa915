"""Precision and recall at a threshold, and the threshold of the highest F1."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ssd_core.evaluation import evaluate
from ssd_core.evaluation.operating_points import Curve
from tests.unit.ssd_core.evaluation.scenes import data_set, detected, labelled, random_scenes


def curve(*ranking, objects):
    scores = np.array([score for score, _ in ranking], np.float32).astype(np.float64)
    return Curve(scores, np.array([is_true for _, is_true in ranking], bool), objects)


def test_precision_recall_and_f1_by_hand():
    point = curve((0.9, True), (0.8, False), (0.5, True), (0.3, True), objects=5).at(0.4)
    assert (point.precision, point.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 5))
    assert point.f1 == pytest.approx(2 * (2 / 3) * (2 / 5) / (2 / 3 + 2 / 5))


def test_a_score_at_the_threshold_is_not_above_it_though_0_4_is_no_fp32_number():
    ranking = curve((0.4, True), objects=1)
    assert ranking.at(0.4).recall == 0
    assert ranking.at(0.39999).recall == 1


def test_shares_of_nothing_do_not_exist():
    nothing_found = curve((0.3, True), objects=2).at(0.4)
    assert (nothing_found.precision, nothing_found.recall, nothing_found.f1) == (None, 0, 0)
    nothing_there = curve((0.9, False), objects=0).at(0.4)
    assert (nothing_there.precision, nothing_there.recall, nothing_there.f1) == (0, None, None)


def test_the_balanced_threshold_by_hand():
    # F1: 2/4, 4/5, 4/6, 6/7, 6/8 after each.
    ranking = curve((0.9, 1), (0.8, 1), (0.7, 0), (0.6, 1), (0.2, 0), objects=3)
    balanced = ranking.balanced()
    assert 0.2 <= balanced.score_threshold < 0.6
    assert balanced.f1 == pytest.approx(6 / 7)
    assert (balanced.precision, balanced.recall) == (pytest.approx(3 / 4), 1)


def test_detections_of_one_score_are_kept_or_dropped_together():
    ranking = curve((0.9, True), (0.5, True), (0.5, False), (0.5, False), (0.5, False), objects=2)
    balanced = ranking.balanced()
    assert balanced.score_threshold >= 0.5
    assert balanced.recall == pytest.approx(1 / 2)


def test_nothing_true_has_no_balance():
    assert curve((0.9, False), objects=2).balanced() is None
    assert curve(objects=2).balanced() is None


def test_the_balanced_threshold_does_not_reach_below_what_was_detected():
    assert 0.2 <= curve((0.3, True), objects=1).balanced(floor=0.2).score_threshold < 0.3


@given(
    st.lists(
        st.tuples(st.integers(1, 20).map(lambda n: n / 20), st.booleans()), min_size=1, max_size=20
    ),
    st.integers(min_value=0, max_value=5),
)
def test_no_threshold_gives_a_higher_f1_than_the_balanced_one(ranking, missed):
    ranking.sort(key=lambda each: -each[0])
    found = sum(is_true for _, is_true in ranking)
    own = curve(*ranking, objects=found + missed)
    balanced = own.balanced(0.01)
    if not found:
        assert balanced is None
        return
    every = [own.at(score).f1 for score in (0.01, *own.scores)]
    assert balanced.f1 == pytest.approx(max(every))


def test_all_classes_together_count_each_object_once():
    image = labelled([[0, 0, 50, 50], [100, 0, 150, 50], [200, 0, 250, 50]], [1, 1, 2])
    found = detected(
        [[0, 0, 50, 50], [200, 0, 250, 50], [300, 300, 350, 350]],
        [0.9, 0.6, 0.5],
        ["cat", "dog", "dog"],
    )
    evaluation = evaluate([found], data_set(image), score_threshold=0.4)
    assert evaluation.working.precision == pytest.approx(2 / 3)
    assert evaluation.working.recall == pytest.approx(2 / 3)
    assert evaluation.per_class["cat"].working.recall == pytest.approx(1 / 2)
    assert evaluation.per_class["dog"].working.precision == pytest.approx(1 / 2)


def test_the_threshold_of_the_detections_bounds_every_balanced_one():
    found = detected([[0, 0, 50, 50]], [0.3], ["cat"])
    evaluation = evaluate([found], data_set(labelled([[0, 0, 50, 50]], [1])), floor=0.2)
    for point in (evaluation.balanced, evaluation.per_class["cat"].balanced):
        assert 0.2 <= point.score_threshold < 0.3


def test_without_a_working_threshold_there_is_no_working_point():
    labelled_images, detections = random_scenes(0, images=6)
    evaluation = evaluate(detections, labelled_images)
    assert evaluation.working is None
    assert evaluation.balanced.f1 > 0


@pytest.mark.parametrize("threshold", [0.2, 0.5])
def test_detections_below_the_threshold_change_nothing_above_it(threshold):
    labelled_images, detections = random_scenes(4)
    above = []
    for found in detections:
        boxes, scores = found.boxes.numpy(), found.scores.numpy()
        kept = scores > np.float32(threshold)
        names = [name for name, keep in zip(found.names, kept, strict=True) if keep]
        above.append(detected(boxes[kept], scores[kept], names))
    all_of_them, only_above = (
        evaluate(each, labelled_images, score_threshold=threshold).working
        for each in (detections, above)
    )
    assert all_of_them == only_above
