"""yuv_to_input: decoded video pictures on the device to the network's input, in one kernel.

Goes in: per image one row of addresses and sizes, one row of colour coefficients. Comes out: a
(B, 3, S_h, S_w) batch, resized, in RGB, turned upright, normalised. Where planes lie, how large
they are and how they are laid out is read from the tables on the device, so a captured launch
serves every later batch. Knows nothing of video files, and does not look after the planes' life:
they stay where they are until the kernel has run.
"""

from collections.abc import Sequence
from functools import cache
from math import inf
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssd_core.yuv import Matrix, Plane, YuvImage, plane_strides, yuv_to_rgb_matrix

IMAGE_TABLE_COLUMNS = (
    "y_address",
    "u_address",
    "v_address",
    "y_row_stride",
    "chroma_row_stride",
    "chroma_step",
    "height",
    "width",
    "quarter_turns",
)
"""The int64 table; strides and the step in bytes, height and width before the picture is turned."""

COEFFICIENT_TABLE_COLUMNS = 12
"""The fp32 table: the 3x3 of ``yuv_to_rgb_matrix`` row by row, then its offset."""

# Chosen from the compiled code, not timed. Blocks of 64 leave 6 % of the lanes idle in rows of 300
# pixels, blocks of 128 22 %. Four lanes read neighbouring taps of one pixel, a warp those of eight
# neighbouring pixels, so a load touches few sectors; each lane has four loads under way in each
# row, eight for chroma. The kernel takes 72 registers on sm_90, 80 on sm_80, and spills none.
BLOCK_PIXELS = 64
BLOCK_TAPS = 4
NUM_WARPS = 2


class PlaneAddresses(NamedTuple):
    """Where the planes of one image lie: the first columns of the image table."""

    y: int
    u: int
    v: int
    y_row_stride: int
    chroma_row_stride: int
    chroma_step: int
    """Bytes between neighbours in u and v: 1 for planar, 2 for NV12."""


class ImageTables(NamedTuple):
    """What the kernel reads, a row per image. A row of zeros is an empty slot."""

    images: Tensor
    """(B, 9) int64: see IMAGE_TABLE_COLUMNS."""
    coefficients: Tensor
    """(B, 12) fp32: see COEFFICIENT_TABLE_COLUMNS."""


def describe_images(
    images: Sequence[YuvImage], addresses: Sequence[PlaneAddresses] | None = None
) -> ImageTables:
    """The tables of a batch, on the CPU.

    ``addresses`` says where the planes lie on the device, one for each image; None where the
    images' own planes are tensors there. Raises ValueError for planes that are not tensors.
    """
    if addresses is None:
        addresses = [plane_addresses(image) for image in images]
    rows = [
        (*where, *image.y.shape, image.quarter_turns)
        for image, where in zip(images, addresses, strict=True)
    ]
    coefficients = [_coefficients(image.full_range, image.matrix) for image in images]
    return ImageTables(
        torch.tensor(rows, dtype=torch.int64, device="cpu").reshape(-1, len(IMAGE_TABLE_COLUMNS)),
        torch.tensor(coefficients, dtype=torch.float32, device="cpu").reshape(
            -1, COEFFICIENT_TABLE_COLUMNS
        ),
    )


def plane_addresses(image: YuvImage) -> PlaneAddresses:
    """Addresses of planes that are tensors; raises ValueError for arrays."""
    return PlaneAddresses(
        _address("y", image.y),
        _address("u", image.u),
        _address("v", image.v),
        plane_strides(image.y)[0],
        *plane_strides(image.u),
    )


def yuv_to_input(
    tables: ImageTables,
    out: Tensor,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    antialias: bool = True,
) -> Tensor:
    """Fill ``out`` with ``(pixel - mean) / std`` of the images in ``tables``; returns ``out``.

    ``out`` is (B, 3, S_h, S_w) in channels_last memory, fp32, fp16 or bf16; ``tables`` lie on its
    device and have at least B rows. What lies in ``out`` for an empty slot stays as it is.

    Bilinear with half-pixel centres as in ``F.interpolate(mode="bilinear")``: scaled down, the
    triangle widens with the scale if ``antialias``, as swscale's does; else a pixel is made of the
    four around its place. Luma and chroma are filtered on
    their own grids, then become RGB, clamped to 0..255.

    Chroma sits level with the left of two luma columns and midway between two rows, as in MPEG-2,
    H.264 and HEVC; swscale does the same with what those decoders give. On an H.264 frame of
    768x576 made 300x300, the mean absolute difference to swscale's bilinear is 0.25 of 255, which
    is its rounding, given SWS_FULL_CHR_H_INT (0.41 were chroma in the middle); by default swscale
    halves chroma's columns and rounds down, and the difference is 1.73.

    Does not synchronise with the host. To capture it in a CUDA graph, launch it once before (the
    first launch compiles it), then keep ``tables`` and ``out`` and write new rows into the former.
    Raises ValueError for tensors of other shapes, types or devices.
    """
    _check(tables, out)
    batch, _, out_height, out_width = out.shape
    # A picture that lies sideways is worked on as it lies, so either side may be the row.
    tiles = max(
        out_height * triton.cdiv(out_width, BLOCK_PIXELS),
        out_width * triton.cdiv(out_height, BLOCK_PIXELS),
    )
    if batch:
        with torch.cuda.device_of(out):
            _yuv_to_input_kernel[(tiles, batch)](
                tables.images,
                tables.coefficients,
                out,
                out_height,
                out_width,
                *map(float, mean),
                *(1 / value for value in std),
                inf if antialias else 1.0,
                BLOCK_PIXELS=BLOCK_PIXELS,
                BLOCK_TAPS=BLOCK_TAPS,
                num_warps=NUM_WARPS,
                # Triton 3.9 warns where it is left to the default, which 3.10 changes.
                enable_fp_fusion=True,
            )
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _yuv_to_input_kernel(
    image_table: tl.tensor,
    coefficient_table: tl.tensor,
    out: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    mean_red: tl.tensor,
    mean_green: tl.tensor,
    mean_blue: tl.tensor,
    scale_red: tl.tensor,
    scale_green: tl.tensor,
    scale_blue: tl.tensor,
    widest: tl.tensor,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_TAPS: tl.constexpr,
) -> None:
    """A program makes BLOCK_PIXELS pixels of one image: part of a row of the picture as it lies.

    ``widest`` limits how far triangles reach, in pixels of a plane.
    """
    image = tl.program_id(1).to(tl.int64)
    entry = image_table + image * 9
    height = tl.load(entry + 6).to(tl.int32)
    width = tl.load(entry + 7).to(tl.int32)
    turns = tl.load(entry + 8).to(tl.int32)
    sideways = turns % 2 == 1
    rows = tl.where(sideways, out_width, out_height)
    columns = tl.where(sideways, out_height, out_width)
    tiles_across = tl.cdiv(columns, BLOCK_PIXELS)
    row = tl.program_id(0) // tiles_across
    if (row >= rows) | (height == 0):
        return
    # Past the end of the row the last pixel is made, and stored, again.
    column = tl.program_id(0) % tiles_across * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    column = tl.minimum(column, columns - 1)
    # Where the centres of the pixels to be made lie in the picture, as a fraction of its sides.
    centre_y = (row + 0.5) / rows
    centre_x = (column + 0.5) / columns

    y, _ = _resample(
        tl.load(entry),
        tl.load(entry),
        tl.load(entry + 3),
        1,
        height,
        width,
        centre_y * height,
        centre_x * width,
        tl.minimum(tl.maximum(height / rows, 1.0), widest),
        tl.minimum(tl.maximum(width / columns, 1.0), widest),
        False,
        BLOCK_PIXELS,
        BLOCK_TAPS,
    )
    chroma_height = (height + 1) // 2
    chroma_width = (width + 1) // 2
    # Chroma level with the left luma column lies a quarter of its own pixel left of the middle.
    u, v = _resample(
        tl.load(entry + 1),
        tl.load(entry + 2),
        tl.load(entry + 4),
        tl.load(entry + 5).to(tl.int32),
        chroma_height,
        chroma_width,
        centre_y * chroma_height,
        centre_x * chroma_width + 0.25,
        tl.minimum(tl.maximum(chroma_height / rows, 1.0), widest),
        tl.minimum(tl.maximum(chroma_width / columns, 1.0), widest),
        True,
        BLOCK_PIXELS,
        BLOCK_TAPS,
    )

    coefficients = coefficient_table + image * 12
    red = _colour(coefficients, 0, y, u, v)
    green = _colour(coefficients, 1, y, u, v)
    blue = _colour(coefficients, 2, y, u, v)

    # One turn takes row r, column c to row columns - 1 - c, column r.
    along_rows = tl.where((turns == 2) | (turns == 3), rows - 1 - row, row)
    along_columns = tl.where((turns == 1) | (turns == 2), columns - 1 - column, column)
    out_row = tl.where(sideways, along_columns, along_rows)
    out_column = tl.where(sideways, along_rows, along_columns)
    pixel = out + image * out_height * out_width * 3 + (out_row * out_width + out_column) * 3
    kind = out.dtype.element_ty
    tl.store(pixel, ((red - mean_red) * scale_red).to(kind))
    tl.store(pixel + 1, ((green - mean_green) * scale_green).to(kind))
    tl.store(pixel + 2, ((blue - mean_blue) * scale_blue).to(kind))


@triton.jit  # type: ignore[untyped-decorator]
def _resample(
    first_address: tl.tensor,
    second_address: tl.tensor,
    row_stride: tl.tensor,
    step: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    centre_y: tl.tensor,
    centre_x: tl.tensor,
    support_y: tl.tensor,
    support_x: tl.tensor,
    PAIR: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_TAPS: tl.constexpr,
) -> tl.tensor:
    """The means of two like planes (of the first alone, unless PAIR) under triangles.

    The triangles lie about one row ``centre_y`` and BLOCK_PIXELS columns ``centre_x``, and reach
    ``support_y`` and ``support_x`` pixels to each side, where they end at zero. Columns of
    the plane are first summed over its rows, BLOCK_TAPS columns for each pixel at a time: what
    depends on the column is then computed once for all rows.
    """
    first_plane = first_address.to(tl.pointer_type(tl.uint8))
    second_plane = second_address.to(tl.pointer_type(tl.uint8))
    per_row = 1 / support_y
    per_column = 1 / support_x
    top = tl.maximum(tl.floor(centre_y - support_y + 0.5).to(tl.int32), 0)
    bottom = tl.minimum(tl.ceil(centre_y + support_y - 0.5).to(tl.int32), height)
    left = tl.floor(centre_x - support_x + 0.5).to(tl.int32)
    taps = tl.ceil(2 * support_x).to(tl.int32)

    first = tl.zeros((BLOCK_PIXELS,), tl.float32)
    second = tl.zeros((BLOCK_PIXELS,), tl.float32)
    total = tl.zeros((BLOCK_PIXELS,), tl.float32)
    for tap in range(0, taps, BLOCK_TAPS):
        x = left[:, None] + (tap + tl.arange(0, BLOCK_TAPS))[None, :]
        weight_x = 1 - tl.abs(x + 0.5 - centre_x[:, None]) * per_column
        weight_x = tl.where((x >= 0) & (x < width), tl.maximum(weight_x, 0.0), 0.0)
        # Taps outside the picture weigh nothing but are read all the same, hence from inside.
        offset = tl.minimum(tl.maximum(x, 0), width - 1) * step
        first_sums = tl.zeros((BLOCK_PIXELS, BLOCK_TAPS), tl.float32)
        second_sums = tl.zeros((BLOCK_PIXELS, BLOCK_TAPS), tl.float32)
        total_y = 0.0
        for y in range(top, bottom):
            weight_y = tl.maximum(1 - tl.abs(y + 0.5 - centre_y) * per_row, 0.0)
            total_y += weight_y
            first_sums += weight_y * tl.load(first_plane + y * row_stride + offset).to(tl.float32)
            if PAIR:
                value = tl.load(second_plane + y * row_stride + offset).to(tl.float32)
                second_sums += weight_y * value
        first += tl.sum(weight_x * first_sums, axis=1)
        if PAIR:
            second += tl.sum(weight_x * second_sums, axis=1)
        total += tl.sum(weight_x, axis=1) * total_y
    return first / total, second / total


@triton.jit  # type: ignore[untyped-decorator]
def _colour(
    coefficients: tl.tensor, row: tl.constexpr, y: tl.tensor, u: tl.tensor, v: tl.tensor
) -> tl.tensor:
    """One of red, green and blue in 0..255, for pixels in YUV."""
    value = (
        tl.load(coefficients + 3 * row) * y
        + tl.load(coefficients + 3 * row + 1) * u
        + tl.load(coefficients + 3 * row + 2) * v
        + tl.load(coefficients + 9 + row)
    )
    return tl.minimum(tl.maximum(value, 0.0), 255.0)


@cache
def _coefficients(full_range: bool, matrix: Matrix) -> tuple[float, ...]:
    """A row of the coefficient table."""
    linear, offset = yuv_to_rgb_matrix(full_range, matrix)
    return (*linear.ravel().tolist(), *offset.tolist())


def _address(name: str, plane: Plane) -> int:
    if not isinstance(plane, Tensor):
        raise ValueError(f"{name} is a tensor on the device, not a {type(plane).__name__}")
    return plane.data_ptr()


def _check(tables: ImageTables, out: Tensor) -> None:
    if out.ndim != 4 or out.shape[1] != 3 or 0 in out.shape[2:]:
        raise ValueError(f"out is (B, 3, height, width), not {tuple(out.shape)}")
    if out.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"out is fp32, fp16 or bf16, not {out.dtype}")
    if not out.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"out is in channels_last memory, not of strides {out.stride()}")
    for name, table, columns, dtype in (
        ("images", tables.images, len(IMAGE_TABLE_COLUMNS), torch.int64),
        ("coefficients", tables.coefficients, COEFFICIENT_TABLE_COLUMNS, torch.float32),
    ):
        if table.ndim != 2 or table.shape[1] != columns or len(table) < len(out):
            raise ValueError(f"{name} is ({len(out)} or more, {columns}), not {tuple(table.shape)}")
        if table.dtype != dtype or not table.is_contiguous() or table.device != out.device:
            raise ValueError(
                f"{name} is contiguous {dtype} on {out.device}, not {table.dtype} of strides"
                f" {table.stride()} on {table.device}"
            )
