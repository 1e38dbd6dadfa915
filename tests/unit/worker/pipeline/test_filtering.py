from dataclasses import dataclass

import numpy as np
import pytest

from worker.pipeline.filtering import EVERYTHING, DetectionFilter

LEFT_HALF = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
L_SHAPE = ((0.0, 0.0), (0.2, 0.0), (0.2, 0.8), (1.0, 0.8), (1.0, 1.0), (0.0, 1.0))


@dataclass
class Found:
    names: list[str]
    scores: np.ndarray
    boxes_normalised: np.ndarray


def found(*boxes, names=None, scores=None):
    return Found(
        names or ["Person"] * len(boxes),
        np.array(scores or [0.9] * len(boxes), np.float32),
        np.array(boxes, np.float32).reshape(-1, 4),
    )


def test_without_settings_everything_is_kept():
    assert EVERYTHING.kept(found((0, 0, 1, 1), (0, 0, 1, 1))) == [0, 1]
    assert EVERYTHING.kept(found()) == []


def test_only_the_labels_asked_for_are_kept():
    boxes = [(0, 0, 1, 1)] * 3
    wanted = DetectionFilter(labels=frozenset({"Car", "Dog"}))
    assert wanted.kept(found(*boxes, names=["Car", "Person", "Dog"])) == [0, 2]


def test_scores_must_exceed_the_threshold_as_fp32():
    wanted = DetectionFilter(score_threshold=0.1)  # 0.1 in fp32 is above 0.1
    boxes = [(0, 0, 1, 1)] * 3
    scores = [0.1, float(np.nextafter(np.float32(0.1), np.float32(1))), 0.09]
    assert wanted.kept(found(*boxes, scores=scores)) == [1]


@pytest.mark.parametrize(
    ("box", "ignored"),
    [
        ((0.1, 0.1, 0.3, 0.9), True),  # its foot stands in the left half
        ((0.4, 0.1, 0.6, 0.9), True),  # on the edge
        ((0.41, 0.1, 0.61, 0.9), False),
        ((0.6, 0.1, 0.8, 0.9), False),
    ],
)
def test_detections_whose_foot_stands_in_an_ignored_area_are_dropped(box, ignored):
    assert DetectionFilter(ignore=(LEFT_HALF,)).kept(found(box)) == ([] if ignored else [0])


def test_the_anchor_decides_which_point_of_a_box_is_looked_at():
    box = (0.5, 0.4, 0.7, 0.9)  # foot (0.6, 0.9) in the L, centre (0.6, 0.65) in its notch
    assert DetectionFilter(ignore=(L_SHAPE,), anchor="bottom").kept(found(box)) == []
    assert DetectionFilter(ignore=(L_SHAPE,), anchor="centre").kept(found(box)) == [0]


@pytest.mark.parametrize(("anchor", "y"), [("bottom", 0.9), ("centre", 0.65)])
def test_the_anchor_is_in_the_middle_of_the_lower_edge_or_of_the_box(anchor, y):
    around = ((0.33, y - 0.02), (0.37, y - 0.02), (0.37, y + 0.02), (0.33, y + 0.02))
    wanted = DetectionFilter(ignore=(around,), anchor=anchor)
    assert wanted.kept(found((0.2, 0.4, 0.5, 0.9))) == []
    assert wanted.kept(found((0.2, 0.3, 0.5, 0.8))) == [0]
    assert wanted.kept(found((0.3, 0.4, 0.5, 0.9))) == [0]


def test_nothing_is_kept_of_nothing():
    assert DetectionFilter(frozenset({"Car"}), 0.5, (LEFT_HALF,)).kept(found()) == []


def test_a_detection_in_any_of_several_areas_is_dropped():
    right_edge = ((0.9, 0.0), (1.0, 0.0), (1.0, 1.0), (0.9, 1.0))
    wanted = DetectionFilter(ignore=(LEFT_HALF, right_edge))
    boxes = [(0.1, 0, 0.2, 0.5), (0.6, 0, 0.7, 0.5), (0.9, 0, 1.0, 0.5)]
    assert wanted.kept(found(*boxes)) == [1]


def test_all_conditions_hold_together():
    wanted = DetectionFilter(frozenset({"Car"}), 0.5, (LEFT_HALF,))
    right, left = (0.6, 0, 0.8, 0.5), (0.1, 0, 0.2, 0.5)
    names = ["Car", "Car", "Person", "Car"]
    scores = [0.9, 0.4, 0.9, 0.9]
    assert wanted.kept(found(right, right, right, left, names=names, scores=scores)) == [0]
