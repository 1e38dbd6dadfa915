"""A few frames of a long recording, as a replay numbered and timed them.

Seeks by time where that finds the very frames, since to decode hours of video for six pictures
takes too long. Where a time is not found, or does not tell frames apart, the recording is decoded
from its beginning up to the last frame that is wanted.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
from av.error import FFmpegError

from worker.errors import SourceError
from worker.sources.conversion import PictureConverter
from worker.sources.decoding import DecodedPictures
from worker.sources.indexed_frames import IndexedFrames
from worker.sources.limits import DEFAULT_LIMITS, Limits
from worker.sources.picture import time_base_of
from worker.sources.recording import open_pictures

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FramePlace:
    """Which frame of a recording is wanted."""

    frame_index: int
    pts: int | None
    time_base: Fraction
    """The unit of ``pts`` in seconds."""
    size: tuple[int, int]
    """(height, width), upright."""


def frames_at(
    path: Path, places: Sequence[FramePlace], limits: Limits = DEFAULT_LIMITS
) -> dict[int, npt.NDArray[np.uint8]]:
    """The frames at these places by their numbers, (H, W, 3) RGB, upright.

    Raises SourceError if the recording cannot be read, or lacks one of them.
    """
    found = {}
    pictures = open_pictures(path, limits=limits)
    if isinstance(pictures, DecodedPictures) and len(list(pictures.parts())) == 1:
        for place in places:
            image = _by_time(path, place, limits)
            if image is not None:
                found[place.frame_index] = image
    missing = [p.frame_index for p in places if p.frame_index not in found]
    if missing:
        frames = IndexedFrames(path, max(missing), limits)
        try:
            for frame_index in missing:
                if frame_index >= frames.count:
                    raise SourceError(f"{path}: has no frame {frame_index}")
                found[frame_index] = frames.read(frame_index)
        finally:
            frames.close()
    return found


def _by_time(path: Path, place: FramePlace, limits: Limits) -> npt.NDArray[np.uint8] | None:
    """The frame with exactly this time; None if there is none after seeking."""
    if place.pts is None:
        return None
    try:
        for decoded in DecodedPictures(path, limits=limits).since(place.pts):
            picture = decoded.picture
            if picture.pts is None or time_base_of(picture) != place.time_base:
                return None
            if picture.pts >= place.pts:
                is_it = picture.pts == place.pts and decoded.size == place.size
                if not is_it or picture.is_corrupt:
                    return None
                return PictureConverter(None).convert(picture, decoded.orientation)
    except FFmpegError:  # it cannot seek
        return None
    return None
