"""The kernel gives what the rounds give; those are tested against the rule itself."""

import importlib

import pytest
import torch

from ssd_core.training.matching import LOWEST, one_each
from tests.conftest import KERNEL_DEVICE as DEVICE

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
