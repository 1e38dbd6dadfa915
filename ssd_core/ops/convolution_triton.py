"""Convolutions of an inference network in Triton, each one kernel with all that follows it.

Goes in: channels_last activations in bf16 or fp16, packed weights. Comes out: the convolution with
its bias, activation, skip connection and 2x2 pooling, summed in fp32 and rounded once, so that what
a layer makes goes through memory once. A sum is taken in the same order whatever the batch, hence
an image gives the same bits in any batch. Knows tensors, not networks: ``cuda_fusion`` does.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from ssd_core.ops.convolution_kernels import (
    convolution_kernel,
    depthwise_kernel,
    l2_normalise_kernel,
)

_SMALL_CHANNELS = 16
"""Below this, channels of several taps share a step of the sum: three for the first layer."""
_DEPTHWISE_COLUMNS = 64
_DEPTHWISE_ELEMENTS = 2048
_DEPTHWISE_WARPS = 4
_L2_ROWS = 8


class Tile(NamedTuple):
    """What one program computes, and how."""

    rows: int
    """Output pixels."""
    columns: int
    """Output channels."""
    depth: int
    """Input channels of one step."""
    warps: int
    stages: int
    """Steps under way at once, each with its part of shared memory."""
    cache: str = ""
    """How loads of 3x3 convolutions are cached: ".ca" keeps what the next tap reads in L1."""


@dataclass(frozen=True)
class Geometry:
    """Of one convolution; sizes are (height, width)."""

    kernel: tuple[int, int]
    stride: int = 1
    dilation: int = 1
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Left, right, top, bottom: the order of ``F.pad``."""

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the output for an input."""
        left, right, top, bottom = self.padding
        sizes = ((height + top + bottom, self.kernel[0]), (width + left + right, self.kernel[1]))
        vertical, horizontal = (
            (size - self.dilation * (kernel - 1) - 1) // self.stride + 1 for size, kernel in sizes
        )
        return vertical, horizontal


class Packed(NamedTuple):
    """A convolution's parameters as the kernel reads them."""

    weight: Tensor
    """(steps * depth, out channels, padded): a step is one tap of ``depth`` input channels."""
    bias: Tensor
    """(out channels, padded) fp32."""
    out_channels: int
    channels: int
    """Of the input."""
    tile: Tile


def pack(weight: Tensor, bias: Tensor | None, tile: Tile) -> Packed:
    """Lay out (out, in, kernel height, kernel width) weights for ``tile``, padded with zeros."""
    out_channels, channels = weight.shape[:2]
    taps = weight.detach().permute(2, 3, 1, 0).reshape(-1, channels, out_channels)
    if channels < _SMALL_CHANNELS:
        taps = taps.reshape(1, -1, out_channels)
    padding = (0, -out_channels % tile.columns, 0, -taps.shape[1] % tile.depth)
    steps = F.pad(taps, padding).unflatten(1, (-1, tile.depth)).transpose(0, 1)
    if bias is None:
        bias = weight.new_zeros(out_channels)
    return Packed(
        steps.flatten(0, 2).contiguous(),
        F.pad(bias.detach().float(), padding[:2]).contiguous(),
        out_channels,
        channels,
        tile,
    )


class Target(NamedTuple):
    """Where pixels of the output go: ``base + image * image_stride + pixel * pixel_stride``."""

    tensor: Tensor
    """Its first element is channel 0 of the first pixel of the first image."""
    image_stride: int
    pixel_stride: int


def convolve(
    x: Tensor,
    packed: Packed,
    geometry: Geometry,
    activation: str = "none",
    *,
    residual: Tensor | None = None,
    pool: bool = False,
    pool_ceil: bool = False,
) -> Tensor:
    """(B, C, H, W) to (B, out, H', W'), both channels_last.

    ``residual``, of the output's shape, is added last. ``pool``: the largest of each 2x2 pixels
    instead of the pixels; with ``pool_ceil`` also of the last, incomplete ones.
    """
    height, width = geometry.output_size(*x.shape[2:])
    if pool:
        height, width = ((n + pool_ceil) // 2 for n in (height, width))
    out = torch.empty(
        (len(x), packed.out_channels, height, width),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )
    target = Target(out, height * width * packed.out_channels, packed.out_channels)
    size = height, width
    _launch(x, packed, geometry, activation, (target,), packed.out_channels, residual, pool, size)
    return out


def convolve_into(
    x: Tensor, packed: Packed, geometry: Geometry, targets: tuple[Target, Target], split: int
) -> None:
    """Channels below ``split`` go to the first target, the others to the second."""
    size = geometry.output_size(*x.shape[2:])
    _launch(x, packed, geometry, "none", targets, split, None, False, size)


def _launch(
    x: Tensor,
    packed: Packed,
    geometry: Geometry,
    activation: str,
    targets: tuple[Target, ...],
    split: int,
    residual: Tensor | None,
    pool: bool,
    size: tuple[int, int],
) -> None:
    """``size``: (height, width) of what is stored."""
    if not x.is_contiguous(memory_format=torch.channels_last):
        x = x.contiguous(memory_format=torch.channels_last)
    images, channels, height, width = x.shape
    tile = packed.tile
    rows = images * size[0] * size[1] * (4 if pool else 1)
    across = len(packed.bias) // tile.columns
    small = channels < _SMALL_CHANNELS
    unit = 1 if small else 8  # 16 bytes, so that they are loaded in one
    left, _, top, _ = geometry.padding
    first, second = targets[0], targets[-1]
    out_unit = 1 if len(targets) > 1 or packed.out_channels % 8 else 8
    grid = (triton.cdiv(rows, tile.rows) * across,)
    with torch.cuda.device_of(x):
        convolution_kernel[grid](
            x,
            packed.weight,
            packed.bias,
            first.tensor if residual is None else residual,
            first.tensor,
            second.tensor,
            rows,
            height,
            width,
            channels // unit,
            *geometry.output_size(height, width),
            size[0] * size[1],
            size[1],
            packed.out_channels // out_unit,
            across,
            top,
            left,
            first.image_stride // out_unit,
            first.pixel_stride // out_unit,
            second.image_stride,
            second.pixel_stride,
            split,
            KERNEL_HEIGHT=geometry.kernel[0],
            KERNEL_WIDTH=geometry.kernel[1],
            STRIDE=geometry.stride,
            DILATION=geometry.dilation,
            PADDED=any(geometry.padding),
            SMALL=small,
            UNIT=unit,
            OUT_UNIT=out_unit,
            EVEN=not small and channels % tile.depth == 0,
            RELU=activation != "none",
            SIX=activation == "relu6",
            RESIDUAL=residual is not None,
            POOL=pool,
            SPLIT=len(targets) > 1,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            DEPTH=tile.depth,
            CACHE=tile.cache,
            num_warps=tile.warps,
            num_stages=tile.stages,
            # Stores of two targets would take all registers there are, and half the programs.
            **({"maxnreg": 128} if len(targets) > 1 else {}),
        )


def depthwise(
    x: Tensor, weight: Tensor, bias: Tensor, geometry: Geometry, activation: str = "none"
) -> Tensor:
    """(B, C, H, W) to (B, C, H', W'), channels_last, each channel by itself.

    ``weight`` is (taps, C) of the type of ``x``, ``bias`` (C,) fp32.
    """
    if not x.is_contiguous(memory_format=torch.channels_last):
        x = x.contiguous(memory_format=torch.channels_last)
    images, channels, height, width = x.shape
    out_height, out_width = geometry.output_size(height, width)
    out = torch.empty(
        (images, channels, out_height, out_width),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )
    columns = min(_DEPTHWISE_COLUMNS, channels & -channels)  # a power of two that divides them
    rows = max(1, _DEPTHWISE_ELEMENTS // columns)
    pixels = images * out_height * out_width
    left, _, top, _ = geometry.padding
    with torch.cuda.device_of(x):
        depthwise_kernel[(channels // columns, triton.cdiv(pixels, rows))](
            x,
            weight,
            bias,
            out,
            pixels,
            height,
            width,
            channels // columns,
            out_height,
            out_width,
            top,
            left,
            KERNEL_HEIGHT=geometry.kernel[0],
            KERNEL_WIDTH=geometry.kernel[1],
            STRIDE=geometry.stride,
            DILATION=geometry.dilation,
            RELU=activation != "none",
            SIX=activation == "relu6",
            ROWS=rows,
            COLUMNS=columns,
            num_warps=_DEPTHWISE_WARPS,
        )
    return out


def l2_normalise(x: Tensor, scale: Tensor) -> Tensor:
    """Each position's vector of (B, C, H, W), channels_last, made as long as ``scale`` (C,) says.

    C is a power of two. Summed in fp32, rounded once; lengths below 1e-12 are taken for 1e-12, as
    in ``F.normalize``.
    """
    out = torch.empty_like(x, memory_format=torch.channels_last)
    images, channels, height, width = x.shape
    rows = images * height * width
    with torch.cuda.device_of(x):
        l2_normalise_kernel[(triton.cdiv(rows, _L2_ROWS),)](
            x, scale, out, rows, CHANNELS=channels, ROWS=_L2_ROWS, num_warps=4
        )
    return out
