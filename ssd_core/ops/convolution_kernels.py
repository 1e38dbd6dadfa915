"""The Triton kernels of ``convolution_triton``, which launches them and says what they are for.

Pointers, sizes and strides in elements go in; activations are channels_last. Sums are fp32.
"""

import inspect
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

_SIZES = [
    "rows", "height", "width", "channels", "pitch", "pixels", "pixels_across", "out_channels",
    "across", "top", "left", "out_height", "out_width", "images", "split",
]  # fmt: skip
"""Not compiled in: the layers of a network share a few kernels."""


def _jit(kernel: Callable[..., None]) -> Any:
    names = inspect.signature(kernel).parameters
    return triton.jit(kernel, do_not_specialize=[name for name in _SIZES if name in names])


# NaN stays NaN, as in PyTorch: decode_nms takes no candidates from it. Triton's own maximum and
# minimum would turn it into the limit, and an overflow in fp16 into detections.


@triton.jit  # type: ignore[untyped-decorator]
def _at_least(values: tl.tensor, others: tl.tensor) -> tl.tensor:
    return tl.maximum(values, others, propagate_nan=tl.PropagateNan.ALL)


@triton.jit  # type: ignore[untyped-decorator]
def _at_most(values: tl.tensor, others: tl.tensor) -> tl.tensor:
    return tl.minimum(values, others, propagate_nan=tl.PropagateNan.ALL)


@_jit
def convolution_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    residual: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    channels: tl.tensor,
    pitch: tl.tensor,
    pixels: tl.tensor,
    pixels_across: tl.tensor,
    out_channels: tl.tensor,
    across: tl.tensor,
    top: tl.tensor,
    left: tl.tensor,
    KERNEL_HEIGHT: tl.constexpr,
    KERNEL_WIDTH: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    PADDED: tl.constexpr,
    EVEN: tl.constexpr,
    PITCH_UNIT: tl.constexpr,
    RELU: tl.constexpr,
    SIX: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    """A matrix product: a row per output pixel, a column per output channel.

    The left matrix is gathered from the input, tap by tap. ``channels`` and ``out_channels`` come
    in eights and ``pitch``, from one pixel to the next, in PITCH_UNITs, so that it shows how much
    can be loaded at once.
    """
    channels, pitch, out_channels = channels * 8, pitch * PITCH_UNIT, out_channels * 8
    padded_channels = across * COLUMNS
    # Programs that read the same rows of the input follow one another.
    row = tl.program_id(0) // across * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)

    known = tl.minimum(row, rows - 1)  # past the end the last one again
    image = known // pixels
    first_y = known % pixels // pixels_across * STRIDE - top
    first_x = known % pixels % pixels_across * STRIDE - left
    corner = x + ((image * height + first_y) * width + first_x).to(tl.int64) * pitch
    weights = weight + depth[:, None] * padded_channels + column[None, :]

    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    TAPS: tl.constexpr = KERNEL_HEIGHT * KERNEL_WIDTH
    for step in range(0, TAPS * tl.cdiv(channels, DEPTH)):
        tap = step % TAPS  # taps one after another: they read the same pixels
        start = step // TAPS * DEPTH
        down = tap // KERNEL_WIDTH * DILATION
        right = tap % KERNEL_WIDTH * DILATION
        pointers = corner[:, None] + ((down * width + right) * pitch + start + depth)[None, :]
        if PADDED:
            y = first_y + down
            x_ = first_x + right
            inside = ((y >= 0) & (y < height) & (x_ >= 0) & (x_ < width))[:, None]
            if not EVEN:
                inside = inside & (start + depth < channels)[None, :]
            values = tl.load(pointers, mask=inside, other=0.0)
        elif EVEN:
            values = tl.load(pointers)
        else:
            values = tl.load(pointers, mask=(start + depth < channels)[None, :], other=0.0)
        sums = tl.dot(values, tl.load(weights + step * DEPTH * padded_channels), sums)

    sums += tl.load(bias + column)[None, :]
    exists = (row < rows)[:, None] & (column < out_channels)[None, :]
    at = row.to(tl.int64)[:, None] * out_channels + column[None, :]
    if RESIDUAL:
        sums += tl.load(residual + at, mask=exists, other=0.0).to(tl.float32)
    if RELU:
        sums = _at_least(sums, 0.0)
    if SIX:
        sums = _at_most(sums, 6.0)
    tl.store(out + at, sums.to(out.dtype.element_ty), mask=exists)


@_jit
def widening_kernel(
    x: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    top: tl.tensor,
    left: tl.tensor,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """ROWS pixels of four channels, of which CHANNELS are the input's, amid a border of zeros."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, 4)
    image = row // (out_height * out_width)
    y = row // out_width % out_height - top
    x_ = row % out_width - left
    pixel = (image * height + y) * width + x_
    inside = (row < rows) & (y >= 0) & (y < height) & (x_ >= 0) & (x_ < width)
    inside = inside[:, None] & (channel < CHANNELS)[None, :]
    pointers = x + pixel.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    value = tl.load(pointers, mask=inside, other=0.0)
    at = row.to(tl.int64)[:, None] * 4 + channel[None, :]
    tl.store(out + at, value, mask=(row < rows)[:, None])


@_jit
def finishing_kernel(
    x: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    across: tl.tensor,
    WINDOW: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """The largest value in a window about each of ROWS pixels; with BIAS, bias and ReLU after that.

    They keep the order, so that they come last. With a WINDOW of one pixel, ``x`` may be ``out``.
    """
    channels = across * COLUMNS
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = tl.minimum(row, rows - 1)
    first_row = known // (out_height * out_width) * height
    first_y = known // out_width % out_height * STRIDE - PADDING
    first_x = known % out_width * STRIDE - PADDING
    value = tl.full((ROWS, COLUMNS), -float("inf"), tl.float32)
    for step in tl.static_range(WINDOW * WINDOW):
        # Where a window reaches over the edge, pixels of it at the edge again.
        y = tl.minimum(tl.maximum(first_y + step // WINDOW, 0), height - 1)
        x_ = tl.minimum(tl.maximum(first_x + step % WINDOW, 0), width - 1)
        pixel = ((first_row + y) * width + x_).to(tl.int64)
        pointers = x + pixel[:, None] * channels + column[None, :]
        value = _at_least(value, tl.load(pointers).to(tl.float32))
    if BIAS:
        value = _at_least(value + tl.load(bias + column)[None, :], 0.0)
    at = known.to(tl.int64)[:, None] * channels + column[None, :]
    tl.store(out + at, value.to(out.dtype.element_ty), mask=(row < rows)[:, None])


@_jit
def splitting_kernel(
    x: tl.tensor,
    bias: tl.tensor,
    cls_logits: tl.tensor,
    bbox_regression: tl.tensor,
    rows: tl.tensor,
    pixels: tl.tensor,
    pitch: tl.tensor,
    out_channels: tl.tensor,
    split: tl.tensor,
    cls_image_stride: tl.tensor,
    bbox_image_stride: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Adds the bias to ROWS pixels; class logits to one place, box offsets to another.

    Channels below ``split`` are logits. The pixels of an image lie close together in both places.
    """
    pitch = pitch * 8
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = (row < rows)[:, None]
    pointers = x + row.to(tl.int64)[:, None] * pitch + column[None, :]
    value = tl.load(pointers, mask=there & (column < pitch)[None, :], other=0.0).to(tl.float32)
    value += tl.load(bias + column, mask=column < out_channels, other=0.0)[None, :]
    result = value.to(x.dtype.element_ty)
    image = (row // pixels).to(tl.int64)
    pixel = row % pixels
    logits = cls_logits + image * cls_image_stride + pixel * split
    tl.store(logits[:, None] + column[None, :], result, mask=there & (column < split)[None, :])
    offsets = bbox_regression + image * bbox_image_stride + pixel * (out_channels - split) - split
    is_offset = (column >= split) & (column < out_channels)
    tl.store(offsets[:, None] + column[None, :], result, mask=there & is_offset[None, :])


@_jit
def depthwise_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    across: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    top: tl.tensor,
    left: tl.tensor,
    KERNEL_HEIGHT: tl.constexpr,
    KERNEL_WIDTH: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    RELU: tl.constexpr,
    SIX: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """ROWS output pixels of COLUMNS channels, which divide the channels."""
    channels = across * COLUMNS
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = tl.minimum(row, rows - 1)
    image = known // (out_height * out_width)
    pixel = known % (out_height * out_width)
    first_y = pixel // out_width * STRIDE - top
    first_x = pixel % out_width * STRIDE - left
    corner = ((image * height + first_y) * width + first_x).to(tl.int64) * channels
    pointers = x + corner[:, None] + column[None, :]
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for down in tl.static_range(KERNEL_HEIGHT):
        for right in tl.static_range(KERNEL_WIDTH):
            y = first_y + down * DILATION
            x_ = first_x + right * DILATION
            inside = (y >= 0) & (y < height) & (x_ >= 0) & (x_ < width)
            offset = (down * width + right) * DILATION * channels
            value = tl.load(pointers + offset, mask=inside[:, None], other=0.0).to(tl.float32)
            tap = tl.load(weight + (down * KERNEL_WIDTH + right) * channels + column)
            sums += value * tap.to(tl.float32)[None, :]
    sums += tl.load(bias + column)[None, :]
    if RELU:
        sums = _at_least(sums, 0.0)
    if SIX:
        sums = _at_most(sums, 6.0)
    at = known.to(tl.int64)[:, None] * channels + column[None, :]
    tl.store(out + at, sums.to(out.dtype.element_ty), mask=(row < rows)[:, None])


@_jit
def l2_normalisation_kernel(
    x: tl.tensor,
    scale: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """ROWS positions, each with all CHANNELS."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, CHANNELS)
    at = row.to(tl.int64)[:, None] * CHANNELS + column[None, :]
    value = tl.load(x + at, mask=(row < rows)[:, None], other=0.0).to(tl.float32)
    length = tl.maximum(tl.sqrt(tl.sum(value * value, 1)), 1e-12)
    value = value / length[:, None] * tl.load(scale + column).to(tl.float32)[None, :]
    tl.store(out + at, value.to(out.dtype.element_ty), mask=(row < rows)[:, None])
