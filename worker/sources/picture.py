"""Properties of a decoded picture: its time, its upright size, its rotation."""

from fractions import Fraction
from typing import Any

import av

QUARTER_TURN_DEGREES = 90


def seconds_of(picture: av.VideoFrame) -> float | None:
    """The picture's pts in seconds; None if the stream has none."""
    return None if picture.pts is None else float(picture.pts * time_base_of(picture))


def time_base_of(picture: av.VideoFrame) -> Fraction:
    """The unit of the picture's pts; decoders always set it, though PyAV's types allow None."""
    return picture.time_base or Fraction(1)


def upright_size(picture: av.VideoFrame) -> tuple[int, int]:
    """(height, width) of the picture after turning it upright."""
    if quarter_turns(picture) % 2:
        return picture.width, picture.height
    return picture.height, picture.width


def quarter_turns(picture: Any) -> int:
    """Counter-clockwise quarter turns that bring the picture upright, 0 to 3.

    Phones record sideways and state it in the display matrix. PyAV gives its angle in degrees,
    counter-clockwise, as FFmpeg's av_display_rotation_get does.
    """
    return round((picture.rotation or 0) / QUARTER_TURN_DEGREES) % 4
