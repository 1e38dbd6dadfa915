import copy
import importlib
import logging

import pytest
import torch
from torch import nn

from ssd_core import MODELS, build_model
from ssd_core.detector import fold_batch_norm
from ssd_core.models.ssd import SSD
from ssd_core.models.vgg import VGG16, VGG_CHANNELS
from ssd_core.ops.decode_nms import fallback
from ssd_core.runners.cuda_fusion import fuse_for_cuda
from tests.conftest import KERNEL_DEVICE as DEVICE

pytestmark = pytest.mark.kernels
pytest.importorskip("triton")
fused = importlib.import_module("ssd_core.runners.cuda_network")

DTYPES = [torch.float16, torch.bfloat16] if DEVICE == "cuda" else [torch.float16]
"""Triton's interpreter multiplies the bits of bf16 numbers, not the numbers."""
OF_EAGER = 1.5
"""Its error, by that of the model in the same type: a convolution rounds once or twice in both."""


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


def vgg_without_extra_layers():
    """Their last maps would need 300x300 pixels, on which the interpreter takes minutes."""
    return SSD(VGG16(), [], VGG_CHANNELS, [4, 6], 5)


NETWORKS = {
    "mobilenet with batch norm": (
        lambda: fold_batch_norm(build_model("ssd_mobilenet_v2_oid", batch_norm=True).eval()),
        (32, 40),
    ),
    "vgg": (vgg_without_extra_layers, (20, 36)),
}
ON_A_GPU = {name: (lambda n=name: build_model(n), spec.image_size) for name, spec in MODELS.items()}
if DEVICE == "cuda":
    NETWORKS |= ON_A_GPU


def lively(model):
    """Weights that keep activations alive from layer to layer, and biases that are not zero."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


def coarse(weight, dilation):
    """Few tiles and steps: the interpreter takes a while for each, however small."""
    columns, depth = (max(16, 1 << (channels - 1).bit_length()) for channels in weight.shape[:2])
    return fused.tile_for(weight, dilation)._replace(columns=columns, depth=depth)


def fuse(model):
    return fused.FusedSSD(model) if DEVICE == "cuda" else fused.FusedSSD(model, coarse)


def picture(batch, size, dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, 3, *size, generator=generator) * 2 - 1
    return x.to(DEVICE, dtype).to(memory_format=torch.channels_last)


# MobileNet's only 3x3 convolutions at stride 1 are depthwise.
BY_CUDNN = [(name, True) if "vgg" in name else (name, False) for name in NETWORKS] + [
    pytest.param(name, False, marks=pytest.mark.long) for name in NETWORKS if "vgg" in name
]


@pytest.mark.parametrize(("name", "by_cudnn"), BY_CUDNN)
@torch.inference_mode()
def test_a_fused_network_computes_what_the_model_computes_in_fp64(
    name, by_cudnn, dtype, monkeypatch
):
    """``by_cudnn``: whether cuDNN, or PyTorch on a CPU, makes 3x3 convolutions at stride 1."""
    monkeypatch.setattr(fused, "CUDNN_FROM_PIXELS", 0 if by_cudnn else 10**9)
    make, size = NETWORKS[name]
    model = lively(make()).to(DEVICE, dtype).to(memory_format=torch.channels_last)
    before = copy.deepcopy(model.state_dict())
    x = picture(1, size, dtype)
    network = fuse(model)
    found = network(x)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    eager = model(x)
    expected = model.cpu().double()(x.cpu().double())
    for actual, other, exact in zip(found, eager, expected, strict=True):
        assert actual.shape == exact.shape
        assert actual.dtype == dtype
        assert exact.std() > 0.01
        error, of_eager = ((o.cpu().double() - exact).norm() for o in (actual, other))
        assert error < OF_EAGER * of_eager
        assert of_eager < 0.1 * exact.norm()


def test_every_convolution_of_a_network_is_a_fused_one():
    for name in MODELS:
        network = fused.FusedSSD(build_model(name).half())
        plain = nn.Conv2d | nn.ReLU | nn.ReLU6 | nn.MaxPool2d
        left = [module for module in network.modules() if isinstance(module, plain)]
        assert not left


@pytest.mark.cuda
@torch.inference_mode()
def test_an_image_of_mobilenet_gives_the_same_bits_in_any_batch(dtype):
    model = lively(build_model("ssd_mobilenet_v2_oid")).to(DEVICE, dtype)
    network, x = fuse(model), picture(2, (300, 300), dtype)
    together, alone = network(x), network(x[1:])
    assert all(torch.equal(a[1:], b) for a, b in zip(together, alone, strict=True))


@pytest.fixture
def small():
    model = lively(build_model("ssd_mobilenet_v2_oid")).to(DEVICE, torch.float16)
    return model, picture(1, (32, 32), torch.float16)


def test_other_types_are_left_to_the_model_without_a_word(small, caplog):
    model, x = small
    assert fuse_for_cuda(model.float(), x.float()) is None
    assert not caplog.records


def test_where_its_kernels_do_not_run_a_network_stays_as_it_is_and_the_other_kernels_are_kept(
    small, caplog, monkeypatch
):
    def fail(*arguments, **options):
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(fused, "convolve", fail)
    with caplog.at_level(logging.WARNING):
        assert fuse_for_cuda(*small) is None
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "no compiler at all" in record.getMessage()
    assert not fallback.reason


def test_memory_that_runs_out_is_no_fault_of_the_kernels(small, monkeypatch):
    def fail(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fused, "convolve", fail)
    with pytest.raises(torch.OutOfMemoryError):
        fuse_for_cuda(*small)
    assert not fallback.reason


@torch.inference_mode()
def test_outputs_are_rounded_once_with_their_bias(dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(9, (1, 16, 3, 4), generator=generator)
    heads = [nn.Conv2d(16, 8, 1), nn.Conv2d(16, 8, 1)]
    for head in heads:  # sums near 3,072: neither type has the odd numbers there
        head.weight.copy_(torch.randint(97, head.weight.shape, generator=generator))
        head.bias.fill_(-3072)
    exact = [head(x.float()).flatten(2).transpose(1, 2).reshape(1, 24, 4) for head in heads]
    assert all((each % 2 == 1).any() and each.abs().max() < 2048 for each in exact)
    found = [torch.empty(1, 24, 4, dtype=dtype, device=DEVICE) for _ in heads]
    x = x.to(DEVICE, dtype).to(memory_format=torch.channels_last)
    heads = [head.to(DEVICE, dtype) for head in heads]
    fused.FusedHead(*heads, 4, fused.tile_for)(x, found[1], found[0])
    for each, expected in zip(found, exact, strict=True):
        assert torch.equal(each.cpu(), expected.to(dtype))
