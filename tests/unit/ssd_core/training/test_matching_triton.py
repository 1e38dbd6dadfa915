"""The kernels match as plain PyTorch does, which is tested against the rule itself."""

import importlib

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from ssd_core.box_coder import xyxy_to_cxcywh
from ssd_core.models.zoo import MODELS
from ssd_core.training.kernels import triton_kernels
from ssd_core.training.matching import BACKGROUND, Matches, match_batch, match_batch_plainly
from tests.conftest import KERNEL_DEVICE as DEVICE
from tests.unit.ssd_core.kernels import compiled, with_each_triton
from tests.unit.ssd_core.training.test_matching import random_boxes

pytestmark = pytest.mark.kernels
pytest.importorskip("triton")
kernels = importlib.import_module("ssd_core.training.matching_triton")


def scene(images, objects, defaults, seed, cells=0):
    """Random boxes, three of four real, and default boxes; with ``cells``, corners on a grid."""
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(images * objects, generator, largest=0.9).view(images, objects, 4)
    tiles = random_boxes(defaults, generator, largest=0.9)
    if cells:  # many pairs of the same IoU, and objects without area
        boxes, tiles = [(each * cells).round() / cells for each in (boxes, tiles)]
        tiles[:, 2:] = tiles[:, 2:].maximum(tiles[:, :2] + 1 / cells)
    is_object = torch.rand(images, objects, generator=generator) < 0.75
    return boxes, is_object, xyxy_to_cxcywh(tiles)


def assert_as_plainly(boxes, is_object, defaults, threshold=0.5):
    """Bit by bit: both compute in the same order."""
    expected = match_batch_plainly(boxes, is_object, defaults, threshold)
    found = Matches(
        *kernels.match(*[x.to(DEVICE) for x in (boxes, is_object, defaults)], threshold)
    )
    assert torch.equal(found.objects.cpu(), expected.objects)
    assert torch.equal(found.best_iou.cpu(), expected.best_iou)
    return expected


@pytest.mark.parametrize(
    ("images", "objects", "defaults", "cells"),
    [(2, 5, 140, 0), (1, 7, 30, 4), (2, 5, 3, 3), (1, 1, 1, 2)],
)
def test_they_match_as_plain_pytorch_does(monkeypatch, images, objects, defaults, cells):
    monkeypatch.setattr(kernels, "BLOCK", 128)
    monkeypatch.setattr(kernels, "SCANNED", 128)
    matched = 0
    for seed in range(2):
        found = assert_as_plainly(*scene(images, objects, defaults, seed, cells), 0.25)
        matched += int((found.objects != BACKGROUND).sum())
    assert matched


def test_objects_that_are_all_alike_take_one_default_box_after_another():
    _, is_object, defaults = scene(1, 6, 40, 0, cells=4)
    boxes = torch.tensor([0.25, 0.25, 0.75, 1.0]).repeat(1, 6, 1)
    found = assert_as_plainly(boxes, torch.ones_like(is_object), defaults, 0.99)
    assert sorted(found.objects[found.objects != BACKGROUND].tolist()) == list(range(6))


def test_an_iou_of_the_threshold_is_not_enough():
    whole, half = [0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.25]
    boxes, is_object = torch.tensor([[whole]]), torch.ones(1, 1, dtype=torch.bool)
    defaults = xyxy_to_cxcywh(torch.tensor([whole, half]))
    for threshold, expected in ((0.5, [0, BACKGROUND]), (0.49, [0, 0])):
        found = assert_as_plainly(boxes, is_object, defaults, threshold)
        assert found.objects[0].tolist() == expected


def test_an_image_without_objects_is_all_background():
    boxes, is_object, defaults = scene(2, 3, 40, 0)
    is_object[0] = False
    found = assert_as_plainly(boxes, is_object, defaults)
    assert (found.objects[0] == BACKGROUND).all()
    assert (found.best_iou[0] == 0).all()


@pytest.mark.long
@settings(
    max_examples=60,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    st.integers(1, 3), st.integers(1, 17), st.integers(1, 60), st.integers(0, 10_000),
    st.sampled_from([0, 2, 3, 5, 8]), st.sampled_from([0.0, 0.25, 0.5, 0.9]),
)  # fmt: skip
def test_any_scene_is_matched_as_in_plain_pytorch(
    images, objects, defaults, seed, cells, threshold
):
    assert_as_plainly(*scene(images, objects, defaults, seed, cells), threshold)


LAUNCHES = """
import torch
from ssd_core import MODELS
from ssd_core.training.matching_triton import match
def launch(images, objects, defaults):
    is_object = torch.ones(images, objects, dtype=torch.bool)
    match(torch.zeros(images, objects, 4), is_object, torch.zeros(defaults, 4), 0.5)
launch(32, 20, len(MODELS["ssd300_vgg16"].default_boxes()))
launch(1, 1, 1)
launch(3, 200, 1917)
"""


@pytest.mark.long
@with_each_triton
def test_the_kernels_compile_for_gpus_without_spills(tmp_path, triton):
    usages = compiled(LAUNCHES, tmp_path, triton)
    assert len(usages) == 3 * 3 * 2
    # Up to a sector, what a thread's access moves at least: a few registers saved around loops.
    assert all(usage["LOCAL"] == 0 and usage["STACK"] <= 32 for usage in usages), usages


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["ssd300_vgg16", "ssd_mobilenet_v2_oid"])
@pytest.mark.parametrize(("images", "objects"), [(32, 20), (4, 200), (1, 1)])
def test_real_sizes_are_matched_as_on_a_cpu(name, images, objects):
    boxes, is_object, _ = scene(images, objects, 1, seed=1)
    found = assert_as_plainly(boxes, is_object, MODELS[name].default_boxes())
    assert (found.objects != BACKGROUND).any()


@pytest.mark.cuda
def test_nobody_waits_for_a_gpu_that_matches():
    boxes, is_object, _ = scene(4, 30, 1, seed=2)
    defaults = MODELS["ssd_mobilenet_v2_oid"].default_boxes()
    on_gpu = [x.to(DEVICE) for x in (boxes, is_object, defaults)]
    match_batch(*on_gpu)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        match_batch(*on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not triton_kernels.reason
