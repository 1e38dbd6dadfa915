"""Properties of a decoded picture: its time and its upright size."""

from fractions import Fraction

import av

from worker.sources.orientation import Orientation, orientation_of


def seconds_of(picture: av.VideoFrame) -> float | None:
    """The picture's pts in seconds; None if the stream has none."""
    return None if picture.pts is None else float(picture.pts * time_base_of(picture))


def time_base_of(picture: av.VideoFrame) -> Fraction:
    """The unit of the picture's pts; decoders always set it, though PyAV's types allow None."""
    return picture.time_base or Fraction(1)


def upright_size(picture: av.VideoFrame, orientation: Orientation | None = None) -> tuple[int, int]:
    """(height, width) of the picture once it is upright; None: as the picture itself states."""
    orientation = orientation or orientation_of(picture)
    return orientation.upright_size(picture.height, picture.width)
