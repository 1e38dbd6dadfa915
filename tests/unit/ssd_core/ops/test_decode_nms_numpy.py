"""decode_nms in NumPy: how far it looks, and its two ways of NMS. See test_decode_nms.py."""

import pytest
import torch

from ssd_core.ops import decode_nms_numpy as cpu
from ssd_core.ops.decode_nms_reference import decode_nms_reference
from tests.unit.ssd_core.head_outputs import (
    Case,
    assert_same,
    heap,
    outputs_with_ties,
    random_outputs,
    spoil,
)


def assert_like_reference(case, least=0):
    found = cpu.decode_nms_numpy(*case)
    assert_same(found, decode_nms_reference(*case))
    assert found.count.sum() >= least
    return found


@pytest.fixture
def looks(monkeypatch):
    """How many candidates each look was for."""
    seen = []
    best_candidates = cpu._best_candidates

    def spy(candidates, look_at, *arguments):
        seen.append(look_at)
        return best_candidates(candidates, look_at, *arguments)

    monkeypatch.setattr(cpu, "_best_candidates", spy)
    return seen


def test_one_look_is_enough_where_boxes_do_not_overlap(looks):
    assert_like_reference(Case.of(*heap(1, 200), "sigmoid", 0.1, 0.5, 400, 10), least=10)
    assert looks == [40]


def test_it_looks_further_until_heaps_of_boxes_leave_enough(looks):
    case = Case.of(*heap(500, 200), "sigmoid", 0.1, 0.5, 1000, 10)
    found = assert_like_reference(case)
    assert looks == [40, 160, 640]
    assert found.count.tolist() == [10]


def test_it_stops_looking_when_there_is_nothing_more(looks):
    found = assert_like_reference(Case.of(*heap(500, 0), "sigmoid", 0.1, 0.5, 1000, 10))
    assert looks == [40, 160, 640]
    assert found.count.tolist() == [1]


def test_what_a_class_may_not_have_is_not_made_up_for_by_looking_further(looks):
    found = assert_like_reference(Case.of(*heap(500, 200), "sigmoid", 0.1, 0.5, 300, 10))
    assert found.count.tolist() == [1]
    assert looks[-1] >= 700


def test_equal_scores_at_the_edge_of_a_look_are_all_looked_at(looks):
    bbox_regression, cls_logits, default_boxes = heap(300, 100)
    cls_logits[0, :, 1] = 1
    for swap in (False, True):
        if swap:
            default_boxes = default_boxes.flip(0)
        case = Case.of(bbox_regression, cls_logits, default_boxes, "sigmoid", 0.1, 0.5, 400, 10)
        assert_like_reference(case, least=10)
    assert looks == [40, 40]


@pytest.mark.parametrize("large_group", [0, 1, 3, 64, 10**9])
@pytest.mark.parametrize("outputs", [random_outputs, outputs_with_ties])
def test_nms_of_large_and_of_small_groups_are_alike(monkeypatch, outputs, large_group):
    monkeypatch.setattr(cpu, "LARGE_GROUP", large_group)
    bbox_regression, cls_logits, default_boxes = outputs(14, boxes=200, classes=6)
    cls_logits[..., 1:3] -= 4  # classes of few candidates beside classes of many
    bbox_regression = spoil(bbox_regression, 0.02, 14)
    for iou_threshold in (0.0, 1 / 3, 0.5, 1.0):
        case = Case.of(bbox_regression, cls_logits, default_boxes, "sigmoid", 0.1, iou_threshold)
        assert_like_reference(case.change(candidates_per_class=150), least=30)


@pytest.mark.parametrize("large_group", [0, 64])
def test_overlap_is_compared_with_the_threshold_in_fp32(monkeypatch, large_group):
    monkeypatch.setattr(cpu, "LARGE_GROUP", large_group)
    # 1/3 in fp32 is above 1/3
    default_boxes = torch.tensor([[0.25, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]])
    cls_logits = torch.tensor([[[0.0, 2.0], [0.0, 1.0]]])
    case = Case.of(torch.zeros(1, 2, 4), cls_logits, default_boxes, iou_threshold=1 / 3)
    assert assert_like_reference(case).count.item() == 2


def test_groups_at_the_limit_of_small_ones_are_like_the_reference():
    for boxes in range(cpu.LARGE_GROUP - 1, cpu.LARGE_GROUP + 3):
        outputs = random_outputs(boxes, images=1, boxes=boxes, classes=3)
        assert_like_reference(Case.of(*outputs, "sigmoid", 0.0, 0.3, 1000, 1000), least=20)
