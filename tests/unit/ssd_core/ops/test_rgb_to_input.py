import importlib

import numpy as np
import pytest
import torch

from ssd_core import MODELS
from ssd_core.preprocess import preprocess
from tests.conftest import KERNEL_DEVICE
from tests.unit.ssd_core.kernels import compiled, with_each_triton

pytestmark = pytest.mark.kernels
pytest.importorskip("triton")
op = importlib.import_module("ssd_core.ops.rgb_to_input")

DEVICE = torch.device(KERNEL_DEVICE)
VGG, MOBILENET = MODELS["ssd300_vgg16"], MODELS["ssd_mobilenet_v2_oid"]


def images_of(count, height=7, width=11):
    generator = np.random.default_rng(0)
    made = [generator.integers(0, 256, (height, width, 3), np.uint8) for _ in range(count)]
    return [torch.from_numpy(image).to(DEVICE) for image in made]


def input_of(count, height=7, width=11, dtype=torch.float32, fill=0.0):
    x = torch.full((count, 3, height, width), fill, dtype=dtype, device=DEVICE)
    return x.to(memory_format=torch.channels_last)


def addresses_of(images):
    return torch.tensor([image.data_ptr() for image in images], device=DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("spec", [VGG, MOBILENET], ids=lambda spec: spec.name)
@pytest.mark.parametrize("block", [64, 256])
def test_it_gives_what_preprocessing_gives_bit_for_bit(spec, dtype, block, monkeypatch):
    monkeypatch.setattr(op, "BLOCK_VALUES", block)
    images = images_of(3)
    x = op.rgb_to_input(addresses_of(images), input_of(3, dtype=dtype), spec.mean, spec.std)
    small = vars(spec) | {"image_size": (7, 11)}
    expected = preprocess(images, type(spec)(**small), DEVICE, dtype)
    # Triton's interpreter cuts bf16 off instead of rounding it.
    cut_off = KERNEL_DEVICE == "cpu" and dtype == torch.bfloat16
    ulp = 2**-7 if cut_off else 0
    torch.testing.assert_close(x, expected, rtol=ulp, atol=0)


def test_every_byte_value_of_every_channel_is_normalised():
    image = torch.arange(256, dtype=torch.uint8, device=DEVICE)[:, None].expand(256, 3)
    image = image.reshape(16, 16, 3).contiguous()
    mean, std = (10.0, 20.0, 30.0), (1.0, 2.0, 4.0)
    x = op.rgb_to_input(addresses_of([image]), input_of(1, 16, 16), mean, std)
    for channel in range(3):
        expected = (torch.arange(256.0) - mean[channel]) / std[channel]
        assert torch.equal(x[0, channel].flatten().cpu(), expected)


def test_an_empty_slot_stays_as_it_is_and_the_table_may_be_longer():
    images = images_of(2)
    addresses = torch.tensor([images[0].data_ptr(), 0, images[1].data_ptr(), 0, 0], device=DEVICE)
    x = op.rgb_to_input(addresses, input_of(4, fill=9.0), VGG.mean, VGG.std)
    full = op.rgb_to_input(addresses_of(images), input_of(2), VGG.mean, VGG.std)
    assert torch.equal(x[[0, 2]], full)
    assert (x[[1, 3]] == 9).all()


def test_no_images_need_no_kernel():
    x, addresses = input_of(0), torch.zeros(0, dtype=torch.int64, device=DEVICE)
    assert op.rgb_to_input(addresses, x, VGG.mean, VGG.std) is x


@pytest.mark.parametrize(
    ("addresses", "out", "said"),
    [
        (torch.zeros(1, dtype=torch.int64), input_of(2), "2 or more"),
        (torch.zeros(2, dtype=torch.int32), input_of(2), "int64"),
        (torch.zeros(2, 1, dtype=torch.int64), input_of(2), "2 or more"),
        (torch.zeros(2, dtype=torch.int64), input_of(2).contiguous(), "channels_last"),
        (torch.zeros(2, dtype=torch.int64), input_of(2).double(), "fp32, fp16 or bf16"),
        (torch.zeros(2, dtype=torch.int64), torch.zeros(2, 4, 3, 3), "height, width"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(addresses, out, said):
    with pytest.raises(ValueError, match=said):
        op.rgb_to_input(addresses.to(DEVICE), out.to(DEVICE), VGG.mean, VGG.std)


LAUNCHES = """
import torch
from ssd_core.ops.rgb_to_input import rgb_to_input

for dtype in (torch.bfloat16, torch.float16, torch.float32):
    x = torch.zeros(2, 3, 300, 300, dtype=dtype).to(memory_format=torch.channels_last)
    rgb_to_input(torch.zeros(2, dtype=torch.int64), x, (1.0, 2.0, 3.0), (1.0, 2.0, 3.0))
"""


@with_each_triton
def test_it_compiles_for_gpus_without_spilling(tmp_path, triton):
    found = compiled(LAUNCHES, tmp_path, triton)
    assert len(found) == 6
    for usage in found:
        assert usage["kernel"] == "_rgb_to_input_kernel"
        assert usage["STACK"] == 0
        assert usage["REG"] <= 64
