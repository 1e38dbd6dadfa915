"""Convolutions of an inference network in Triton, each one kernel with all that follows it.

Goes in: channels_last activations in bf16 or fp16, packed weights. Comes out: the convolution with
its bias, activation and skip connection, summed in fp32 and rounded once, so that what a layer
makes goes through memory once. A sum is taken in the same order whatever the batch, hence an image
gives the same bits in any batch. Beside it, what follows a convolution of cuDNN's, in one kernel.
Knows tensors, not networks: ``models/fused.py`` does.
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
    finishing_kernel,
    l2_normalisation_kernel,
    splitting_kernel,
    widening_kernel,
)

_WIDE = 4
"""Channels and taps of a row that a small input is widened to: three of each in the first layer."""
_BLOCK = 2048
"""Elements of one program where each is loaded and stored once; 16 bytes a lane and load."""
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
    """Lay out (out, in, kernel height, kernel width) weights for ``tile``, padded with zeros.

    Raises ValueError for channels, in or out, that are not a multiple of 8; up to 4 in are widened.
    """
    out_channels, channels = weight.shape[:2]
    if out_channels % 8 or (channels % 8 and not is_small(weight)):
        raise ValueError(f"weights {tuple(weight.shape)}: channels must be multiples of 8")
    if is_small(weight):  # the taps of a row are one tap of 16 channels
        weight = F.pad(weight, (0, _WIDE - weight.shape[3], 0, 0, 0, _WIDE - channels))
        taps = weight.detach().permute(2, 3, 1, 0).flatten(1, 2)
    else:
        taps = weight.detach().permute(2, 3, 1, 0).flatten(0, 1)
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


def is_small(weight: Tensor) -> bool:
    """Whether an input of so few channels is widened, so that it can be loaded in pieces."""
    return weight.shape[1] <= _WIDE and weight.shape[3] <= _WIDE


def convolve(
    x: Tensor,
    packed: Packed,
    geometry: Geometry,
    activation: str = "none",
    residual: Tensor | None = None,
) -> Tensor:
    """(B, C, H, W) to (B, out, H', W'), both channels_last.

    ``activation`` is "none", "relu" or "relu6"; ``residual``, of the output's shape and layout, is
    added before it.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    images = len(x)
    height, width = geometry.output_size(*x.shape[2:])
    out = _activations(images, packed.out_channels, height, width, x)
    channels = pitch = packed.channels
    padded = any(geometry.padding)
    kernel = geometry.kernel
    left, _, top, _ = geometry.padding
    if channels <= _WIDE:
        x = _widen(x, geometry)
        channels, pitch, padded, left, top = _WIDE * _WIDE, _WIDE, False, 0, 0
        kernel = kernel[0], 1
    tile = packed.tile
    rows = images * height * width
    across = len(packed.bias) // tile.columns
    pitch_unit = min(8, pitch)
    with torch.cuda.device_of(x):
        convolution_kernel[(triton.cdiv(rows, tile.rows) * across,)](
            x,
            packed.weight,
            packed.bias,
            out if residual is None else residual,
            out,
            rows,
            *x.shape[2:],
            channels // 8,
            pitch // pitch_unit,
            height * width,
            width,
            packed.out_channels // 8,
            across,
            top,
            left,
            KERNEL_HEIGHT=kernel[0],
            KERNEL_WIDTH=kernel[1],
            STRIDE=geometry.stride,
            DILATION=geometry.dilation,
            PADDED=padded,
            EVEN=channels % tile.depth == 0,
            PITCH_UNIT=pitch_unit,
            RELU=activation != "none",
            SIX=activation == "relu6",
            RESIDUAL=residual is not None,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            DEPTH=tile.depth,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
    return out


def _widen(x: Tensor, geometry: Geometry) -> Tensor:
    """(B, C, H, W) to (B, 4, H', W') with the padding around it, room for a fourth tap included."""
    left, right, top, bottom = geometry.padding
    images, channels, height, width = x.shape
    out_height = height + top + bottom
    out_width = width + left + right + _WIDE - geometry.kernel[1]
    out = _activations(images, _WIDE, out_height, out_width, x)
    rows = images * out_height * out_width
    block = _BLOCK // _WIDE
    with torch.cuda.device_of(x):
        widening_kernel[(triton.cdiv(rows, block),)](
            x,
            out,
            rows,
            height,
            width,
            out_height,
            out_width,
            top,
            left,
            CHANNELS=channels,
            ROWS=block,
        )
    return out


class Pool(NamedTuple):
    """The windows of a maximum pool."""

    window: int
    stride: int
    padding: int = 0
    ceil: bool = False
    """Whether windows that reach over the bottom or right edge count, too."""

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the output for an input."""
        spare = self.stride - 1 if self.ceil else 0
        vertical, horizontal = (
            (size + 2 * self.padding - self.window + spare) // self.stride + 1
            for size in (height, width)
        )
        return vertical, horizontal


def finish(x: Tensor, bias: Tensor | None, pool: Pool | None = None) -> Tensor:
    """What follows a convolution that gave (B, C, H, W), channels_last: bias, ReLU, maximum pool.

    ``bias`` is (C,) fp32; without it there is no ReLU either. Without ``pool`` in place. C is a
    multiple of 8.
    """
    images, channels, height, width = x.shape
    out, (out_height, out_width) = x, (height, width)
    if pool is not None:
        out_height, out_width = pool.output_size(height, width)
        out = _activations(images, channels, out_height, out_width, x)
    columns = min(128, channels & -channels)  # a power of two that divides them
    rows = images * out_height * out_width
    block = _BLOCK // columns
    window, stride, padding, _ = pool or Pool(1, 1)
    with torch.cuda.device_of(x):
        finishing_kernel[(triton.cdiv(rows, block), channels // columns)](
            x,
            x if bias is None else bias,
            out,
            rows,
            height,
            width,
            out_height,
            out_width,
            channels // columns,
            WINDOW=window,
            STRIDE=stride,
            PADDING=padding,
            BIAS=bias is not None,
            ROWS=block,
            COLUMNS=columns,
        )
    return out


def split_heads(
    x: Tensor, bias: Tensor, split: int, bbox_regression: Tensor, cls_logits: Tensor
) -> None:
    """Add the bias to a joint convolution's output and hand it out to class and box outputs.

    ``x`` is (B, C, H, W) with channels rounded up to a multiple of 8, ``bias`` (channels,) fp32,
    logits first, ``split`` of them. The outputs, (B, boxes, 4) and (B, boxes, classes), begin at
    the map's first default box; they may be parts of larger ones.
    """
    images, pitch, height, width = x.shape
    rows = images * height * width
    columns = 128
    block = _BLOCK // columns
    with torch.cuda.device_of(x):
        splitting_kernel[(triton.cdiv(rows, block), triton.cdiv(pitch, columns))](
            x,
            bias,
            cls_logits,
            bbox_regression,
            rows,
            height * width,
            pitch // 8,
            len(bias),
            split,
            cls_logits.stride(0),
            bbox_regression.stride(0),
            ROWS=block,
            COLUMNS=columns,
        )


def depthwise(
    x: Tensor, weight: Tensor, bias: Tensor, geometry: Geometry, activation: str = "none"
) -> Tensor:
    """(B, C, H, W) to (B, C, H', W'), channels_last, each channel by itself.

    ``weight`` is (taps, C) of the type of ``x``, ``bias`` (C,) fp32.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    images, channels, height, width = x.shape
    out_height, out_width = geometry.output_size(height, width)
    out = _activations(images, channels, out_height, out_width, x)
    columns = min(_DEPTHWISE_COLUMNS, channels & -channels)  # a power of two that divides them
    block = max(1, _DEPTHWISE_ELEMENTS // columns)
    rows = images * out_height * out_width
    left, _, top, _ = geometry.padding
    with torch.cuda.device_of(x):
        depthwise_kernel[(triton.cdiv(rows, block), channels // columns)](
            x,
            weight,
            bias,
            out,
            rows,
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
            ROWS=block,
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
        l2_normalisation_kernel[(triton.cdiv(rows, _L2_ROWS),)](
            x, scale, out, rows, CHANNELS=channels, ROWS=_L2_ROWS
        )
    return out


def _activations(images: int, channels: int, height: int, width: int, like: Tensor) -> Tensor:
    """Memory for (B, C, H, W) in channels_last."""
    return torch.empty(
        (images, channels, height, width),
        dtype=like.dtype,
        device=like.device,
        memory_format=torch.channels_last,
    )
