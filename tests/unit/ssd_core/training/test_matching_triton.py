"""The kernel gives what the rounds give; those are tested against the rule itself."""

import importlib

import pytest
import torch

from ssd_core.models.zoo import MODELS
from ssd_core.training.matching import LOWEST, match_batch, one_each
from tests.conftest import KERNEL_DEVICE as DEVICE
from tests.unit.ssd_core.training.test_matching import random_boxes

pytestmark = pytest.mark.kernels
pytest.importorskip("triton")
assign = importlib.import_module("ssd_core.training.matching_triton").assign


def lists(images, objects, count, defaults, levels, seed):
    """Keys and default boxes as ``matching`` ranks them, of IoU with few levels: many ties."""
    generator = torch.Generator().manual_seed(seed)
    iou = torch.randint(levels, (images, objects, defaults), generator=generator)
    of_box = (iou << 32) + LOWEST - torch.arange(defaults)
    best = LOWEST - (of_box.topk(count, dim=2).values & LOWEST)
    keys = (iou.gather(2, best) << 32) + LOWEST - torch.arange(objects)[:, None]
    is_none = torch.rand(images, objects, generator=generator) < 0.2
    keys[is_none & (torch.arange(objects) > 0)] = -(1 << 32)
    return keys.to(DEVICE), best.to(DEVICE)


@pytest.mark.parametrize(
    ("images", "objects", "defaults", "levels"),
    [(3, 20, 50, 4), (2, 5, 3, 3), (1, 1, 1, 2), (2, 33, 40, 1000), (0, 2, 4, 2)],
)
def test_it_assigns_what_rounds_of_asking_assign(images, objects, defaults, levels):
    for seed in range(4):
        keys, wanted = lists(images, objects, min(objects, defaults), defaults, levels, seed)
        found = assign(keys, wanted, defaults)
        assert torch.equal(found, one_each(keys, wanted, defaults))
        assert images == 0 or (found < defaults).any()


@pytest.mark.cuda
def test_a_gpu_matches_as_a_cpu_and_nobody_waits_for_it():
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(4 * 30, generator).view(4, 30, 4)
    is_object = torch.rand(4, 30, generator=generator) < 0.9
    defaults = MODELS["ssd_mobilenet_v2_oid"].default_boxes()
    expected = match_batch(boxes, is_object, defaults)
    on_gpu = [x.to(DEVICE) for x in (boxes, is_object, defaults)]
    match_batch(*on_gpu)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = match_batch(*on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found.objects.cpu(), expected.objects)
    torch.testing.assert_close(found.best_iou.cpu(), expected.best_iou)
