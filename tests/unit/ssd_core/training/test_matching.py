"""Which default box is to predict which object."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torchvision.models.detection._utils import SSDMatcher
from torchvision.ops import box_iou

from ssd_core.box_coder import cxcywh_to_xyxy, xyxy_to_cxcywh
from ssd_core.models.zoo import MODELS
from ssd_core.training.matching import match_batch, match_default_boxes, padded


def boxes_of(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def match(boxes_xyxy, defaults_xyxy, threshold=0.5):
    return match_default_boxes(boxes_xyxy, xyxy_to_cxcywh(defaults_xyxy), threshold).tolist()


def random_boxes(count, generator, largest=0.5):
    corner = torch.rand(count, 2, generator=generator) * (1 - largest)
    size = 0.02 + torch.rand(count, 2, generator=generator) * (largest - 0.02)
    return torch.cat((corner, corner + size), dim=1)


def greedily(iou, threshold):
    """The rule of the paper's authors, one pair after another."""
    iou, found = iou.clone(), [-1] * iou.shape[1]
    free = iou.clone()
    for _ in range(min(iou.shape)):
        best = int(free.flatten().argmax())
        of, box = divmod(best, iou.shape[1])
        found[box] = of
        free[of] = free[:, box] = -1
    value, of = iou.max(0)
    return [
        own if own >= 0 else int(o) if v > threshold else -1
        for own, v, o in zip(found, value, of, strict=True)
    ]


DEFAULTS = boxes_of([0, 0, 0.4, 0.4], [0.4, 0, 0.8, 0.4], [0, 0.4, 0.4, 0.8], [0.4, 0.4, 0.8, 0.8])


def test_an_object_gets_its_best_default_box_and_all_that_overlap_enough():
    assert match(boxes_of([0, 0, 0.4, 0.41]), DEFAULTS) == [0, -1, -1, -1]
    twice = torch.cat((DEFAULTS, boxes_of([0, 0, 0.4, 0.5])))
    assert match(boxes_of([0, 0, 0.4, 0.41]), twice) == [0, -1, -1, -1, 0]


def test_an_iou_of_the_threshold_is_not_enough():
    whole_and_half = boxes_of([0, 0, 0.5, 0.5], [0, 0, 0.5, 0.25])
    assert match(boxes_of([0, 0, 0.5, 0.5]), whole_and_half) == [0, -1]
    assert match(boxes_of([0, 0, 0.5, 0.5]), whole_and_half, 0.49) == [0, 0]


def test_an_object_that_overlaps_none_enough_gets_the_best_all_the_same():
    assert match(boxes_of([0.5, 0.5, 0.55, 0.55]), DEFAULTS) == [-1, -1, -1, 0]


def test_of_two_objects_with_one_best_default_box_the_other_gets_the_best_that_is_free():
    both = boxes_of([0, 0, 0.4, 0.3], [0, 0, 0.42, 0.4])
    assert match(both, DEFAULTS) == [1, 0, -1, -1] or match(both, DEFAULTS) == [1, -1, 0, -1]
    to_the_right = boxes_of([0.05, 0, 0.42, 0.3], [0, 0, 0.4, 0.4])
    assert match(to_the_right, DEFAULTS) == [1, 0, -1, -1]
    assert match(to_the_right.flip(0), DEFAULTS) == [0, 1, -1, -1]


def test_an_object_that_loses_its_box_takes_one_from_an_object_that_wants_it_less():
    defaults = boxes_of([0, 0, 0.2, 0.2], [0.1, 0, 0.3, 0.2], [0.2, 0, 0.4, 0.2])
    objects = boxes_of([0.15, 0.1, 0.3, 0.2], [0.02, 0, 0.22, 0.2], [0.0, 0, 0.2, 0.2])
    iou = box_iou(objects, defaults)
    assert iou.argmax(1).tolist() == [1, 0, 0]
    assert match(objects, defaults, 0.9) == greedily(iou, 0.9) == [2, 1, 0]


def test_ties_go_to_the_lower_index():
    assert match(boxes_of([0.1, 0.1, 0.2, 0.2]), boxes_of(*[[0, 0, 0.4, 0.4]] * 3)) == [0, -1, -1]
    same = boxes_of(*[[0, 0, 0.4, 0.4]] * 2)
    assert match(same, DEFAULTS[:1]) == [0]
    assert match(same, DEFAULTS[[0, 0, 3]], 0.9) == [0, 1, -1]
    assert match(same[:1].expand(3, 4), DEFAULTS[[0, 0, 3]], 0.9) == [0, 1, 2]


def test_objects_smaller_than_any_default_box_have_one_each():
    spec = MODELS["ssd300_vgg16"]
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(40, 2, generator=generator) * 0.9
    tiny = torch.cat((corner, corner + 0.004), dim=1)
    found = match_default_boxes(tiny, spec.default_boxes())
    assert sorted(found[found >= 0].tolist()) == list(range(40))


def test_without_objects_all_is_background():
    assert match(boxes_of(), DEFAULTS) == [-1] * 4


def test_more_objects_than_default_boxes_leave_some_without():
    assert sorted(match(DEFAULTS, DEFAULTS[:2])) == [0, 1]


@pytest.mark.parametrize("bad", [[0.1, 0.1, 0.1, 0.3], [0.3, 0.1, 0.1, 0.3], [0.2, 0.2, 0.2, 0.2]])
def test_an_object_without_area_gets_none(bad):
    assert match(boxes_of(bad), DEFAULTS) == [-1] * 4
    assert match(boxes_of(bad, [0, 0, 0.4, 0.4]), DEFAULTS) == [1, -1, -1, -1]


@pytest.mark.parametrize("name", ["ssd300_vgg16", "ssd_mobilenet_v2_oid"])
def test_where_no_two_objects_share_a_best_box_it_is_torchvisions(name):
    defaults = MODELS[name].default_boxes()
    generator = torch.Generator().manual_seed(7)
    compared = 0
    for count in [1, 2, 3, 5, 8] * 8:
        objects = random_boxes(count, generator)
        iou = box_iou(objects, cxcywh_to_xyxy(defaults))
        best = iou.argmax(1)
        if len(best.unique()) < count:
            continue
        compared += 1
        assert torch.equal(match_default_boxes(objects, defaults), SSDMatcher(0.5)(iou))
    assert compared > 20


@settings(max_examples=200)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 10_000), st.floats(0.05, 0.95))
def test_it_is_the_greedy_rule(objects, defaults, seed, threshold):
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(objects, generator, largest=0.9)
    tiles = xyxy_to_cxcywh(random_boxes(defaults, generator, largest=0.9))
    # Pairs that do not overlap at all are alike: which of them are taken is not compared.
    iou = box_iou(boxes, cxcywh_to_xyxy(tiles))
    if (iou == 0).any():
        return
    assert match_default_boxes(boxes, tiles, threshold).tolist() == greedily(iou, threshold)


def test_a_batch_is_its_images_one_by_one():
    generator = torch.Generator().manual_seed(3)
    defaults = MODELS["ssd_mobilenet_v2_oid"].default_boxes()
    images = [random_boxes(count, generator) for count in (0, 7, 1, 30, 4)]
    found = match_batch(*padded(images), defaults).objects
    for row, boxes in zip(found, images, strict=True):
        assert torch.equal(row, match_default_boxes(boxes, defaults))


def test_the_best_iou_of_each_default_box_is_known():
    boxes, is_object = padded([boxes_of([0, 0, 0.4, 0.2], [0, 0, 0.4, 0.1]), boxes_of()])
    found = match_batch(boxes, is_object, xyxy_to_cxcywh(DEFAULTS))
    expected = torch.tensor([[0.5, 0, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(found.best_iou, expected)
