"""The Triton kernels of ``convolution_triton``, which launches them and says what they are for.

Pointers, sizes and strides in elements go in; activations are channels_last. Sums are fp32.
"""

import triton
import triton.language as tl

_SIZES = [
    "rows", "height", "width", "channels", "out_height", "out_width", "pixels", "pixels_across",
    "out_channels", "across", "top", "left", "image_stride", "pixel_stride",
    "second_image_stride", "second_pixel_stride", "split",
]  # fmt: skip
"""Not compiled in: the layers of a network share a few kernels."""


@triton.jit(do_not_specialize=_SIZES)  # type: ignore[untyped-decorator]
def convolution_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    residual: tl.tensor,
    out: tl.tensor,
    second: tl.tensor,
    rows: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    channels: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    pixels: tl.tensor,
    pixels_across: tl.tensor,
    out_channels: tl.tensor,
    across: tl.tensor,
    top: tl.tensor,
    left: tl.tensor,
    image_stride: tl.tensor,
    pixel_stride: tl.tensor,
    second_image_stride: tl.tensor,
    second_pixel_stride: tl.tensor,
    split: tl.tensor,
    KERNEL_HEIGHT: tl.constexpr,
    KERNEL_WIDTH: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    PADDED: tl.constexpr,
    SMALL: tl.constexpr,
    UNIT: tl.constexpr,
    OUT_UNIT: tl.constexpr,
    EVEN: tl.constexpr,
    RELU: tl.constexpr,
    SIX: tl.constexpr,
    RESIDUAL: tl.constexpr,
    POOL: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    CACHE: tl.constexpr,
) -> None:
    """A matrix product: a row per output pixel, a column per output channel.

    The left matrix is gathered from the input, tap by tap. With POOL, each four rows are the pixels
    of one window of the pool.
    """
    channels = channels * UNIT
    padded_channels = across * COLUMNS
    image_stride, pixel_stride = image_stride * OUT_UNIT, pixel_stride * OUT_UNIT
    out_channels = out_channels * OUT_UNIT
    # Programs that read the same rows of the input follow one another.
    row = tl.program_id(0) // across * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)

    known = tl.minimum(row, rows - 1)  # past the end the last one again
    if POOL:
        pixel = known // 4
        image = pixel // pixels
        pixel = pixel % pixels
        out_y = pixel // pixels_across * 2 + known % 4 // 2
        out_x = pixel % pixels_across * 2 + known % 2
    else:
        image = known // pixels
        pixel = known % pixels
        out_y = pixel // pixels_across
        out_x = pixel % pixels_across
    first_y = out_y * STRIDE - top
    first_x = out_x * STRIDE - left
    corner = x + ((image * height + first_y) * width + first_x).to(tl.int64) * channels
    weights = weight + depth[:, None] * padded_channels + column[None, :]

    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    if SMALL:  # all taps in one step or a few
        for start in range(0, KERNEL_HEIGHT * KERNEL_WIDTH * channels, DEPTH):
            entry = start + depth
            tap = entry // channels
            down = tap // KERNEL_WIDTH * DILATION
            right = tap % KERNEL_WIDTH * DILATION
            y = first_y[:, None] + down[None, :]
            x_ = first_x[:, None] + right[None, :]
            inside = (y >= 0) & (y < height) & (x_ >= 0) & (x_ < width)
            inside = inside & (tap < KERNEL_HEIGHT * KERNEL_WIDTH)[None, :]
            offset = (down * width + right) * channels + entry % channels
            values = tl.load(corner[:, None] + offset[None, :], mask=inside, other=0.0)
            sums = tl.dot(values, tl.load(weights + start * padded_channels), sums)
    else:
        TAPS: tl.constexpr = KERNEL_HEIGHT * KERNEL_WIDTH
        for step in range(0, TAPS * tl.cdiv(channels, DEPTH)):
            tap = step % TAPS  # taps one after another: they read the same pixels
            start = step // TAPS * DEPTH
            down = tap // KERNEL_WIDTH * DILATION
            right = tap % KERNEL_WIDTH * DILATION
            offset = (down * width + right) * channels + start + depth
            pointers = corner[:, None] + offset[None, :]
            if PADDED:
                y = first_y + down
                x_ = first_x + right
                inside = ((y >= 0) & (y < height) & (x_ >= 0) & (x_ < width))[:, None]
                if not EVEN:
                    inside = inside & (start + depth < channels)[None, :]
                values = tl.load(pointers, mask=inside, other=0.0, cache_modifier=CACHE)
            elif EVEN:
                values = tl.load(pointers)
            else:
                values = tl.load(pointers, mask=(start + depth < channels)[None, :], other=0.0)
            sums = tl.dot(values, tl.load(weights + step * DEPTH * padded_channels), sums)

    if POOL:  # the largest first: bias and activation keep the order
        there = (out_y < out_height) & (out_x < out_width)
        sums = tl.where(there[:, None], sums, -float("inf"))
        sums = tl.max(tl.reshape(sums, (ROWS // 4, 4, COLUMNS)), 1)
        row = tl.program_id(0) // across * (ROWS // 4) + tl.arange(0, ROWS // 4)
        rows = rows // 4
        image = row // pixels
        pixel = row % pixels
    sums += tl.load(bias + column)[None, :]
    exists = (row < rows)[:, None] & (column < out_channels)[None, :]
    at = image.to(tl.int64) * image_stride + pixel * pixel_stride
    if RESIDUAL:
        pointers = (residual + at)[:, None] + column[None, :]
        sums += tl.load(pointers, mask=exists, other=0.0).to(tl.float32)
    if RELU:
        sums = tl.maximum(sums, 0.0)
    if SIX:
        sums = tl.minimum(sums, 6.0)
    result = sums.to(out.dtype.element_ty)
    pointers = (out + at)[:, None] + column[None, :]
    if SPLIT:
        tl.store(pointers, result, mask=exists & (column < split)[None, :])
        at = image.to(tl.int64) * second_image_stride + pixel * second_pixel_stride - split
        pointers = (second + at)[:, None] + column[None, :]
        tl.store(pointers, result, mask=exists & (column >= split)[None, :])
    else:
        tl.store(pointers, result, mask=exists)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=[
        "pixels", "height", "width", "across", "out_height", "out_width", "top", "left"
    ]
)  # fmt: skip
def depthwise_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    pixels: tl.tensor,
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
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    known = tl.minimum(row, pixels - 1)
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
        sums = tl.maximum(sums, 0.0)
    if SIX:
        sums = tl.minimum(sums, 6.0)
    at = known.to(tl.int64)[:, None] * channels + column[None, :]
    tl.store(out + at, sums.to(out.dtype.element_ty), mask=(row < pixels)[:, None])


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def l2_normalise_kernel(
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
