"""How a stored picture must be turned and mirrored to appear as a player shows it.

Takes decoded pictures; gives an Orientation for each. Phones record sideways and front cameras may
mirror; both say so in a display matrix, which FFmpeg takes from the container, from EXIF and from
the display orientation SEI of H.264 and HEVC alike.
"""

import math
import struct
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideDataContainer, Type

QUARTER_TURN = math.pi / 2
MATRIX = struct.Struct("=9i")
"""(a, b, u, c, d, v, x, y, w), row by row, in the order of libavutil/display.h."""
ONE_FOR_ALL = {"apng"}
"""Formats of animations, of which every picture may be a key frame."""


@dataclass(frozen=True, slots=True)
class Orientation:
    """How to bring a picture upright: mirror it first, then turn it. One of eight."""

    quarter_turns: int = 0
    """Counter-clockwise, 0 to 3."""
    mirrored: bool = False
    """Whether left and right are swapped before the turns."""

    def upright(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A contiguous (H, W, 3) image as a player shows it; the same array if nothing changes."""
        if self == UPRIGHT:
            return image
        return np.ascontiguousarray(
            np.rot90(image[:, ::-1] if self.mirrored else image, self.quarter_turns)
        )

    def upright_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the upright picture."""
        return (width, height) if self.quarter_turns % 2 else (height, width)


UPRIGHT = Orientation()


class Orientations:
    """The orientations of one stream's pictures; it must be given all of them, in order.

    An encoder may state it at key frames only. It then holds until the next key frame (ITU-T H.264
    D.2.27: until a new coded video sequence, which begins with a key frame, or another message).
    The EXIF of an animation stands in front of its first picture and holds for all of them.
    """

    def __init__(self, format_name: str = "") -> None:
        """``format_name``: FFmpeg's name of the container's format."""
        self._current = UPRIGHT
        self._holds_to_the_end = format_name in ONE_FOR_ALL

    def of(self, picture: av.VideoFrame) -> Orientation:
        """The orientation of the stream's next picture."""
        stated = stated_orientation(picture)
        if stated is not None:
            self._current = stated
        elif picture.key_frame and not self._holds_to_the_end:
            self._current = UPRIGHT
        return self._current


def orientation_of(picture: av.VideoFrame) -> Orientation:
    """The orientation that the picture itself states; upright if it states none."""
    return stated_orientation(picture) or UPRIGHT


def stated_orientation(picture: Any) -> Orientation | None:
    """The orientation in the picture's display matrix; None without one."""
    # Not picture.side_data, which keeps what it gives and is kept by it: the picture's memory would
    # stay in use until Python next looks for cycles.
    for data in SideDataContainer(picture):  # type: ignore[call-arg]
        if data.type is Type.DISPLAYMATRIX and data.buffer_size >= MATRIX.size:
            a, b, _, c, d, *_ = MATRIX.unpack_from(bytes(data))
            return orientation_of_matrix(a, b, c, d)
    return None


def orientation_of_matrix(a: int, b: int, c: int, d: int) -> Orientation:
    """The orientation nearest to a matrix that takes (x, y) to (a x + c y, b x + d y).

    The y axis points down. Other angles go to the nearest quarter turn, as in most players; a
    matrix that flattens the picture means nothing, and leaves it as it is.
    """
    determinant = a * d - b * c
    if determinant == 0:
        return UPRIGHT
    mirrored = determinant < 0
    if mirrored:  # take the mirror off, so that a rotation (and perhaps a scale) is left
        a, b = -a, -b
    clockwise = math.atan2(b - c, a + d)
    return Orientation(round(-clockwise / QUARTER_TURN) % 4, mirrored)


def _take_unknown_types() -> None:
    """Let PyAV list side data of types that are newer than its own list.

    Without it, listing raises ValueError for a picture with EXIF (FFmpeg's type 31), although its
    display matrix has a type that PyAV knows.
    """

    def unknown(cls: type[Type], value: object) -> Type | None:
        if not isinstance(value, int):
            return None
        member = object.__new__(cls)
        vars(member).update(_name_=f"UNKNOWN_{value}", _value_=value)
        return member

    Type._missing_ = classmethod(unknown)  # type: ignore[assignment]


_take_unknown_types()
