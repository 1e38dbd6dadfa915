"""The recordings of a replay's COCO output, for training and evaluation: found by camera id.

Takes folders; gives the frames of a recording by their index. Knows neither annotations nor models.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssd_core.errors import DataError
from worker.errors import SourceError, UsageError
from worker.settings.naming import parse_sources
from worker.sources.indexed_frames import IndexedFrames, OpenDecoders
from worker.sources.limits import DEFAULT_LIMITS, Limits

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = {
    ".264", ".265", ".3gp", ".asf", ".av1", ".avi", ".dv", ".flv", ".gif", ".h264", ".h265",
    ".hevc", ".ivf", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg",
    ".mpg", ".mts", ".mxf", ".nut", ".obu", ".ogg", ".ogv", ".ts", ".vob", ".webm", ".webp",
    ".wmv", ".y4m",
}  # fmt: skip
"""Of files that are taken for a recording, in lower case."""


class RecordedFrames:
    """The frames of one recording; see ``IndexedFrames``. Raises DataError in place of its own."""

    def __init__(self, path: Path, last: int, limits: Limits, open_decoders: OpenDecoders) -> None:
        self._path = path
        try:
            self._frames = IndexedFrames(path, last, limits, open_decoders)
        except SourceError as error:
            raise DataError(str(error)) from error

    @property
    def count(self) -> int:
        """How many there are, up to the last that was asked for."""
        return self._frames.count

    def size(self, frame_index: int) -> tuple[int, int]:
        """(height, width) in pixels, upright."""
        return self._frames.size(frame_index)

    def together(self, frame_index: int) -> str:
        """Recording and key frame."""
        return f"{self._path}#{self._frames.key_frame_before(frame_index)}"

    def read(self, frame_index: int) -> npt.NDArray[np.uint8]:
        """(H, W, 3) RGB, upright. Raises DataError."""
        try:
            return self._frames.read(frame_index)
        except SourceError as error:
            raise DataError(str(error)) from error


class Recordings:
    """Finds recordings beside annotations."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._open_decoders = OpenDecoders()

    def find(self, camera_id: str, folders: Sequence[Path]) -> Path | None:
        """The recording of that id in the first folder that has one; "": the only one there.

        Raises DataError for several.
        """
        for folder in folders:
            if not folder.is_dir():
                continue
            found = sorted(
                path
                for path in folder.iterdir()
                if path.suffix.lower() in VIDEO_SUFFIXES
                and path.is_file()
                and camera_id in ("", _camera_id(path))
            )
            if len(found) > 1:
                names = ", ".join(path.name for path in found)
                raise DataError(f"{folder}: several recordings may be meant ({names}): keep one")
            if found:
                return found[0]
        return None

    def frames(self, recording: Path, last: int) -> RecordedFrames:
        """Its frames up to index ``last``: it is decoded once. Raises DataError."""
        log.info("%s: looking for the frames up to %d", recording, last)
        return RecordedFrames(recording, last, self._limits, self._open_decoders)


def _camera_id(path: Path) -> str | None:
    """As ``ssd-worker replay`` names a recording; None for a name that it refuses."""
    try:
        return next(iter(parse_sources([str(path.absolute())])))
    except UsageError:
        return None
