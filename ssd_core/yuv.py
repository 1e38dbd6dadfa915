"""Decoded video pictures as they are: luma and chroma planes, and what colours they mean.

YuvImage describes one 8-bit YUV 4:2:0 picture, planar or NV12, wherever its planes lie. Knows
neither video files nor how a picture becomes the network's input.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Plane: TypeAlias = npt.NDArray[np.uint8] | Tensor
"""(rows, columns) uint8, perhaps a strided view of something larger."""

Matrix: TypeAlias = Literal["bt601", "bt709"]

LUMA_WEIGHTS: dict[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
}
"""Kr and Kb: the shares of red and blue in luma (ITU-R BT.601-7 2.5.1, BT.709-6 item 3.2)."""


@dataclass(frozen=True, slots=True, eq=False)
class YuvImage:
    """One picture in YUV 4:2:0, 8 bit.

    Raises ValueError where the planes do not make up a picture.
    """

    y: Plane
    """(H, W) luma; the pixels of a row lie side by side, rows may be padded."""
    u: Plane
    """(ceil(H/2), ceil(W/2)) blue-difference chroma; every second byte of a row in NV12."""
    v: Plane
    """Red-difference chroma, laid out as ``u``."""
    full_range: bool
    """Whether luma uses 0..255 (JPEG), not 16..235."""
    matrix: Matrix
    quarter_turns: int = 0
    """Counter-clockwise quarter turns that bring the picture upright, 0 to 3."""
    mirrored: bool = False
    """Whether left and right must be swapped before these turns."""

    def __post_init__(self) -> None:
        for name, plane in (("y", self.y), ("u", self.u), ("v", self.v)):
            _check_plane(name, plane)
        height, width = self.y.shape
        chroma = ((height + 1) // 2, (width + 1) // 2)
        for name, plane in (("u", self.u), ("v", self.v)):
            if tuple(plane.shape) != chroma:
                raise ValueError(
                    f"{name} of a {height}x{width} picture is {chroma[0]}x{chroma[1]},"
                    f" not {plane.shape[0]}x{plane.shape[1]}"
                )
        if plane_strides(self.y)[1] != 1:
            raise ValueError(f"pixels of y lie side by side, not {plane_strides(self.y)[1]} apart")
        if plane_strides(self.u) != plane_strides(self.v):
            raise ValueError(
                f"u and v have equal strides, not {plane_strides(self.u)} and"
                f" {plane_strides(self.v)}"
            )
        if self.matrix not in LUMA_WEIGHTS:
            raise ValueError(f"matrix is one of {', '.join(LUMA_WEIGHTS)}, not {self.matrix!r}")
        if self.quarter_turns not in range(4):
            raise ValueError(f"quarter_turns is 0 to 3, not {self.quarter_turns!r}")

    @property
    def height(self) -> int:
        """Pixels from top to bottom once the picture is upright."""
        return int(self.y.shape[self.quarter_turns % 2])

    @property
    def width(self) -> int:
        """Pixels from left to right once the picture is upright."""
        return int(self.y.shape[1 - self.quarter_turns % 2])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, 3), as of the upright RGB image."""
        return self.height, self.width, 3


def plane_strides(plane: Plane) -> tuple[int, int]:
    """Bytes from one row to the next and from one pixel to the next.

    An axis of length one has no next: its stride is given as 1, whatever the view says.
    """
    strides = plane.stride() if isinstance(plane, Tensor) else plane.strides
    row, column = (
        int(stride) if length > 1 else 1
        for length, stride in zip(plane.shape, strides, strict=True)
    )
    return row, column


def yuv_to_rgb_matrix(
    full_range: bool, matrix: Matrix
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(3, 3) and (3,): ``rgb = linear @ yuv + offset``, all in 0..255, to be clamped there.

    ITU-R BT.601-7 and BT.709-6 define ``Y = Kr R + (1 - Kr - Kb) G + Kb B``,
    ``Cb = (B - Y) / (2 - 2 Kb)`` and ``Cr = (R - Y) / (2 - 2 Kr)``, which this solves for RGB.
    Their 8-bit codes are 16..235 for luma and 16..240 around 128 for chroma; full range (JFIF 1.02)
    stretches both to 0..255.
    """
    kr, kb = LUMA_WEIGHTS[matrix]
    kg = 1 - kr - kb
    red, blue = 2 - 2 * kr, 2 - 2 * kb
    black, luma_codes, chroma_codes = (0, 255, 255) if full_range else (16, 219, 224)
    unit = np.array([[1, 0, red], [1, -blue * kb / kg, -red * kr / kg], [1, blue, 0]])
    linear = unit * (255 / np.array([luma_codes, chroma_codes, chroma_codes]))
    return linear, -linear @ np.array([black, 128, 128])


def _check_plane(name: str, plane: object) -> None:
    if not isinstance(plane, np.ndarray | Tensor):
        raise ValueError(f"{name} is an array or tensor, not a {type(plane).__name__}")
    if plane.dtype not in (np.uint8, torch.uint8):
        raise ValueError(f"{name} is uint8, not {plane.dtype}")
    if plane.ndim != 2 or 0 in plane.shape:
        raise ValueError(f"{name} is a plane of pixels, not of shape {tuple(plane.shape)}")
