"""A CudaRunner with a network of a few weights, and pictures for it: on a GPU where there is one.

On the CPU it takes the same steps one after another, without streams and graphs.
"""

import importlib
import logging
from dataclasses import replace

import numpy as np
import torch

from ssd_core.ops import decode_nms
from ssd_core.preprocess import preprocess
from ssd_core.runners.cuda import CudaRunner
from ssd_core.yuv import YuvImage
from tests.conftest import KERNEL_DEVICE

DEVICE = torch.device(KERNEL_DEVICE)
CPU = torch.device("cpu")
THRESHOLD = 0.45
ROUNDING = 5e-3 if KERNEL_DEVICE == "cuda" else 1e-4
"""A GPU's convolutions of fp32 multiply in TF32, of 10 bits."""


def observant(tiny_model):
    """The tiny model with weights that see something else in every picture."""
    generator = torch.Generator().manual_seed(1)
    for parameter in tiny_model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return tiny_model.eval().to(DEVICE).to(memory_format=torch.channels_last)


def small(tiny_spec):
    """The tiny spec with half the input: the interpreter takes 20 ms for each of its rows."""
    return replace(tiny_spec, image_size=(8, 16), feature_maps=((1, 2),))


def runner_of(network, spec, *, for_planes=False):
    runner = CudaRunner(network, spec, DEVICE, torch.float32, spec.decode_settings(THRESHOLD))
    # The interpreter takes 1 ms for every row of every image, also of one that has no planes.
    runner.takes_yuv &= for_planes or KERNEL_DEVICE == "cuda"
    return runner


@torch.inference_mode()
def found_alone(image, network, spec):
    """What the network finds in an image, without a runner."""
    if isinstance(image, YuvImage):
        x = network_input(image, spec)
    else:
        x = preprocess([image], spec, DEVICE, torch.float32)
    default_boxes = spec.default_boxes().to(DEVICE)
    result = decode_nms(*network(x), default_boxes, spec.decode_settings(THRESHOLD))
    count = int(result.count[0])
    return tuple(tensor[0, :count].cpu() for tensor in result[:3])


def network_input(image, spec):
    # Imports Triton.
    op = importlib.import_module("ssd_core.ops.yuv_to_input")
    planes = {
        name: torch.as_tensor(np.ascontiguousarray(getattr(image, name))).to(DEVICE)
        for name in ("y", "u", "v")
    }
    tables = op.describe_images([replace(image, **planes)])
    tables = op.ImageTables(*(table.to(DEVICE) for table in tables))
    x = torch.zeros(1, 3, *spec.image_size, device=DEVICE).to(memory_format=torch.channels_last)
    return op.yuv_to_input(tables, x, spec.mean, spec.std, spec.antialias)


def each(found):
    """(boxes, scores, labels) of each image of what a runner found."""
    parts = (part.split(found.counts) for part in (found.boxes, found.scores, found.labels))
    return list(zip(*parts, strict=True))


def assert_found(found, expected):
    """``found`` is what a runner gives; ``expected`` has (boxes, scores, labels) of each image."""
    assert len(found.counts) == len(expected)
    for one, other in zip(each(found), expected, strict=True):
        for name, actual, wanted in zip(("boxes", "scores", "labels"), one, other, strict=True):
            assert actual.device == CPU
            torch.testing.assert_close(actual, wanted, atol=ROUNDING, rtol=ROUNDING, msg=name)


def rgb(seed, height=8, width=16):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def pictures(count, first_seed=0):
    return [rgb(first_seed + index) for index in range(count)]


def yuv(seed, height=10, width=14, **fields):
    generator = np.random.default_rng(seed)
    chroma = ((height + 1) // 2, (width + 1) // 2)
    y, u, v = (generator.integers(0, 256, s, np.uint8) for s in ((height, width), chroma, chroma))
    return YuvImage(**{"y": y, "u": u, "v": v, "full_range": True, "matrix": "bt601"} | fields)


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
