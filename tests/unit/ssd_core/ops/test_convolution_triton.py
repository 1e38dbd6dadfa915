import importlib

import pytest
import torch
from torch.nn import functional as F

from tests.conftest import KERNEL_DEVICE as DEVICE
from tests.unit.ssd_core.kernels import CAPABILITIES, compiled, with_each_triton

pytestmark = pytest.mark.kernels
pytest.importorskip("triton")
op = importlib.import_module("ssd_core.ops.convolution_triton")

TILE = op.Tile(64, 32, 32, 4, 3)
ROUNDING = {torch.float16: 5e-4, torch.bfloat16: 4e-3}
"""Of the norm: half of the last bit, for a result that is summed in fp32 and rounded once."""
ALL_AROUND = (1, 1, 1, 1)
SAME_ODD = (0, 1, 0, 1)
MOST_REGISTERS = 255
MOST_SHARED_BYTES = {80: 99 * 1024, 90: 227 * 1024}
"""Of a block: the least of any GPU with compute capability 8.x (8.6 and 8.9), and 9.0's (CUDA C++
Programming Guide, technical specifications per compute capability)."""


DTYPES = [torch.float16, torch.bfloat16] if DEVICE == "cuda" else [torch.float16]
"""Triton's interpreter multiplies the bits of bf16 numbers, not the numbers."""


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


def random(*shape, dtype, seed=0):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return values.to(memory_format=torch.channels_last) if len(shape) == 4 else values


def assert_near(found, expected, dtype):
    assert found.shape == expected.shape
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    error = (found.cpu().double() - expected).norm() / expected.norm()
    assert error < ROUNDING[dtype]  # false for NaN, too


class Layer:
    """A convolution with random weights, in the kernel and in fp64 on the CPU."""

    def __init__(self, out, channels, kernel, dtype, *, tile=TILE, **geometry):
        self.geometry = op.Geometry(kernel, **geometry)
        self.weight = random(out, channels, *kernel, dtype=dtype, seed=1)
        self.bias = random(out, dtype=dtype, seed=2)
        self.packed = op.pack(self.weight.to(DEVICE), self.bias.to(DEVICE), tile)

    def __call__(self, x, activation="none", residual=None, **options):
        residual = None if residual is None else residual.to(DEVICE)
        return op.convolve(
            x.to(DEVICE), self.packed, self.geometry, activation, residual=residual, **options
        )

    def exact(self, x, groups=1):
        geometry = self.geometry
        padded = F.pad(x.double(), geometry.padding)
        return F.conv2d(
            padded, self.weight.double(), self.bias.double(), geometry.stride, 0,
            geometry.dilation, groups,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("out", "channels", "kernel", "geometry"),
    [
        (48, 32, (3, 3), {"padding": ALL_AROUND}),
        (32, 64, (3, 3), {"padding": ALL_AROUND}),
        (32, 64, (3, 3), {}),
        (64, 64, (3, 3), {"stride": 2, "padding": ALL_AROUND}),
        (64, 64, (3, 3), {"stride": 2, "padding": SAME_ODD}),
        (64, 32, (3, 3), {"dilation": 6, "padding": (6, 6, 6, 6)}),
        (64, 32, (4, 4), {"padding": ALL_AROUND}),
        (40, 96, (1, 1), {}),
        (16, 24, (1, 1), {}),
        (64, 144, (1, 1), {}),
        (32, 64, (2, 3), {"padding": (1, 1, 0, 1)}),
        (64, 3, (3, 3), {"padding": ALL_AROUND}),
        (32, 3, (3, 3), {"stride": 2, "padding": SAME_ODD}),
        (16, 1, (3, 3), {"padding": ALL_AROUND}),
        (32, 4, (2, 4), {"padding": ALL_AROUND}),
    ],
)
def test_a_convolution_is_that_of_fp64_rounded_once(out, channels, kernel, geometry, dtype):
    layer = Layer(out, channels, kernel, dtype, **geometry)
    x = random(2, channels, 9, 14, dtype=dtype)
    assert_near(layer(x), layer.exact(x), dtype)


@pytest.mark.parametrize(("activation", "top"), [("relu", None), ("relu6", 6)])
def test_activations_cut_off_what_they_should(activation, top, dtype):
    layer = Layer(32, 32, (1, 1), dtype)
    x = random(1, 32, 5, 7, dtype=dtype) * 2
    exact = layer.exact(x)
    assert exact.min() < -1
    assert exact.max() > 7
    assert_near(layer(x, activation), exact.clamp(0, top), dtype)


def test_a_skip_connection_is_added_before_the_activation(dtype):
    layer = Layer(24, 32, (1, 1), dtype)
    x, residual = random(2, 32, 5, 7, dtype=dtype), random(2, 24, 5, 7, dtype=dtype, seed=3)
    assert_near(layer(x, "relu", residual), (layer.exact(x) + residual.double()).relu(), dtype)


@pytest.mark.parametrize("channels", [8, 96])
def test_bias_and_relu_are_added_in_place(channels, dtype):
    x, bias = random(2, channels, 7, 9, dtype=dtype), torch.linspace(-2, 2, channels)
    expected = (x.double() + bias.double()[:, None, None]).relu()
    on_device = x.to(DEVICE)
    found = op.finish(on_device, bias.to(DEVICE))
    assert found.data_ptr() == on_device.data_ptr()
    assert_near(found, expected, dtype)


POOLS = [
    op.Pool(2, 2),
    op.Pool(2, 2, ceil=True),
    op.Pool(3, 1, padding=1),
    op.Pool(3, 2, padding=1),
]


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("size", [(8, 12), (9, 12), (8, 13), (9, 13), (2, 3), (2, 2)])
def test_the_pool_takes_the_largest_of_each_window(size, pool, with_bias, dtype):
    x = random(3, 32, *size, dtype=dtype)
    window, stride, padding, ceil = pool
    expected = F.max_pool2d(x.double(), window, stride, padding, ceil_mode=ceil)
    bias = None
    if with_bias:
        bias = torch.linspace(-2, 2, 32)
        expected = (expected + bias.double()[:, None, None]).relu()
        bias = bias.to(DEVICE)
    assert_near(op.finish(x.to(DEVICE), bias, pool), expected, dtype)


@pytest.mark.parametrize(("classes", "boxes"), [(7, 2), (91, 6)])
def test_head_outputs_are_split_between_logits_and_offsets(classes, boxes, dtype):
    images, height, width = 3, 4, 5
    split, channels = boxes * classes, boxes * (classes + 4)
    x = random(images, -(-channels // 8) * 8, height, width, dtype=dtype)
    bias = torch.linspace(-2, 2, channels)
    # Room for five boxes before the map's and three behind it, which stay as they are.
    total = 5 + height * width * boxes + 3
    logits = torch.full((images, total, classes), 77, dtype=dtype, device=DEVICE)
    offsets = torch.full((images, total, 4), 77, dtype=dtype, device=DEVICE)
    op.split_heads(x.to(DEVICE), bias.to(DEVICE), split, offsets[:, 5:], logits[:, 5:])
    exact = (x.double()[:, :channels] + bias.double()[:, None, None]).permute(0, 2, 3, 1)
    for found, expected in (
        (logits, exact[..., :split].reshape(images, -1, classes)),
        (offsets, exact[..., split:].reshape(images, -1, 4)),
    ):
        filled = found[:, 5:-3].cpu().double()
        assert (filled - expected).norm() / expected.norm() < ROUNDING[dtype]
        assert (found[:, :5] == 77).all()
        assert (found[:, -3:] == 77).all()


@pytest.mark.parametrize("shape", [(12, 16, 3, 3), (16, 12, 3, 3), (16, 5, 1, 1)])
def test_channels_that_do_not_come_in_eights_are_refused(shape):
    with pytest.raises(ValueError, match="multiples of 8"):
        op.pack(torch.zeros(shape), None, TILE)


@pytest.mark.parametrize(
    "tile",
    [
        op.Tile(128, 64, 64, 4, 3),
        op.Tile(64, 16, 32, 4, 2),
        op.Tile(128, 128, 64, 8, 3),
        op.Tile(256, 64, 32, 8, 4),
    ],
    ids=str,
)
def test_the_tile_does_not_show_in_the_result(tile, dtype):
    x = random(1, 64, 6, 7, dtype=dtype)
    layer = Layer(72, 64, (3, 3), dtype, tile=tile, padding=ALL_AROUND)
    assert_near(layer(x, "relu"), layer.exact(x).relu(), dtype)


def test_an_image_gives_the_same_bits_in_any_batch(dtype):
    layer = Layer(40, 64, (3, 3), dtype, padding=ALL_AROUND)
    x = random(5, 64, 7, 9, dtype=dtype)
    together = layer(x, "relu")
    for index in range(len(x)):
        assert torch.equal(layer(x[index : index + 1], "relu"), together[index : index + 1])


def test_input_of_another_layout_is_taken_too(dtype):
    layer = Layer(32, 32, (3, 3), dtype, padding=ALL_AROUND)
    x = random(2, 32, 6, 8, dtype=dtype)
    expected = layer(x)
    assert torch.equal(layer(x.contiguous()), expected)
    wide = torch.zeros(2, 48, 6, 8, dtype=dtype).to(memory_format=torch.channels_last)
    wide[:, 8:40] = x
    assert torch.equal(layer(wide[:, 8:40]), expected)


def test_nan_stays_nan(dtype):
    """decode_nms takes no candidates from it; a zero in its place might become one."""
    x = random(1, 32, 4, 6, dtype=dtype)
    x[0, :, 1, 1] = float("nan")
    layer = Layer(32, 32, (1, 1), dtype)
    x, bias = x.to(DEVICE), torch.zeros(32, device=DEVICE)
    for activation in ("none", "relu", "relu6"):
        assert where_nan(layer(x, activation)) == [[1, 1]]
    assert where_nan(op.finish(x, None, op.Pool(2, 2))) == [[0, 0]]
    taps, around = (
        torch.ones(9, 32, dtype=dtype, device=DEVICE),
        op.Geometry((3, 3), padding=ALL_AROUND),
    )
    assert len(where_nan(op.depthwise(x, taps, bias, around, "relu6"))) == 9
    assert where_nan(op.finish(x, bias)) == [[1, 1]]


def where_nan(x):
    return x[0].isnan().all(0).nonzero().tolist()


@pytest.mark.parametrize("channels", [16, 96, 144])
@pytest.mark.parametrize(("stride", "padding"), [(1, ALL_AROUND), (2, SAME_ODD), (2, ALL_AROUND)])
def test_a_depthwise_convolution_is_that_of_fp64_rounded_once(channels, stride, padding, dtype):
    geometry = op.Geometry((3, 3), stride=stride, padding=padding)
    x = random(2, channels, 9, 12, dtype=dtype)
    weight, bias = random(channels, 1, 3, 3, dtype=dtype, seed=1), random(channels, dtype=dtype)
    taps = weight.flatten(1).T.contiguous().to(DEVICE)
    found = op.depthwise(x.to(DEVICE), taps, bias.float().to(DEVICE), geometry, "relu6")
    padded = F.pad(x.double(), padding)
    exact = F.conv2d(padded, weight.double(), bias.double(), stride, 0, 1, channels).clamp(0, 6)
    assert_near(found, exact, dtype)


def test_l2_normalisation_is_that_of_fp64_rounded_once(dtype):
    x, scale = random(2, 64, 3, 5, dtype=dtype), random(64, dtype=dtype, seed=1)
    x[0, :, 0, 0] = 0
    found = op.l2_normalise(x.to(DEVICE), scale.to(DEVICE))
    expected = scale.double()[None, :, None, None] * F.normalize(x.double(), dim=1)
    assert_near(found, expected, dtype)
    assert (found[0, :, 0, 0] == 0).all()


LAUNCHES = """
import torch
from torch import nn
from ssd_core.runners.cuda_network import tile_for
from ssd_core.ops.convolution_triton import *
def activations(*shape):
    return torch.empty(shape, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
for out, channels, kernel, dilation, residual in [
    (512, 512, 3, 1, False), (1024, 512, 3, 6, False), (64, 3, 3, 1, False),
    (1024, 1024, 1, 1, False), (24, 144, 1, 1, True), (960, 160, 1, 1, False),
    (168, 1280, 1, 1, False),
]:
    weight = torch.empty(out, channels, kernel, kernel, dtype=torch.bfloat16)
    packed = pack(weight, None, tile_for(weight, dilation))
    padding = (dilation,) * 4 if kernel == 3 else (0, 0, 0, 0)
    geometry = Geometry((kernel, kernel), dilation=dilation, padding=padding)
    skip = activations(16, out, 38, 38) if residual else None
    convolve(activations(16, channels, 38, 38), packed, geometry, "relu", skip)
depthwise(activations(16, 96, 150, 150), torch.empty(9, 96).bfloat16(), torch.empty(96),
          Geometry((3, 3), padding=(1, 1, 1, 1)), "relu6")
l2_normalise(activations(16, 512, 38, 38), torch.empty(512).bfloat16())
finish(activations(16, 64, 300, 300), torch.empty(64))
finish(activations(16, 64, 300, 300), torch.empty(64), Pool(2, 2))
split_heads(activations(16, 384, 38, 38), torch.empty(380), 364,
            torch.empty(16, 8732, 4).bfloat16(), torch.empty(16, 8732, 91).bfloat16())
"""


@pytest.mark.timeout(400)
@pytest.mark.long
@with_each_triton
def test_kernels_compiled_for_gpus_keep_their_sums_in_registers(tmp_path, triton):
    usage = compiled(LAUNCHES, tmp_path, triton)
    assert len(usage) == 13 * len(CAPABILITIES)  # the first layer's input is widened
    for launch in usage:
        assert launch["REG"] <= MOST_REGISTERS, launch
        assert launch["LOCAL"] == 0, launch
        assert launch["LAUNCH_SHARED"] <= MOST_SHARED_BYTES[launch["capability"]], launch
        if launch["capability"] == 90:
            assert launch["STACK"] == 0, launch
