"""Frames of a recording by their index, in any order, exactly those that a replay numbers so.

A first pass decodes the recording up to the last frame that is wanted, and notes of each its time,
its size and a checksum of its luma. Later a decoder goes on from where it is, or starts at the last
key frame before the wanted one; the checksum proves that this gives the same picture. Where it does
not, and where times are missing or fall back, decoders start at the beginning.
"""

import logging
import math
import zlib
from bisect import bisect_right
from collections.abc import Generator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError

from worker.errors import SourceError
from worker.sources.conversion import PictureConverter
from worker.sources.decoding import DecodedPictures
from worker.sources.limits import DEFAULT_LIMITS, Limits
from worker.sources.orientation import Orientation
from worker.sources.pictures import DecodedPicture, PictureReader
from worker.sources.recording import open_pictures

log = logging.getLogger(__name__)

Decoder: TypeAlias = Generator[tuple[int, DecodedPicture]]
"""Frames with their indices."""
MOST_EARLIER = 2
"""Key frames before the one that is wanted; beyond them, seeking is no use."""
MOST_OPEN = 4
"""Recordings per process."""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """What the first pass notes of a frame."""

    pts: int | None
    is_key: bool
    orientation: Orientation
    size: tuple[int, int]
    """(height, width), upright."""
    checksum: int


class OpenDecoders:
    """The recordings that are open in this process: a decoder takes up to some hundred MB."""

    def __init__(self) -> None:
        self._frames: list[IndexedFrames] = []

    def __getstate__(self) -> dict[str, Any]:
        """In another process none is open."""
        return {"_frames": []}

    def add(self, frames: "IndexedFrames") -> None:
        """One is about to open; the one that was opened first is closed if there are too many."""
        while len(self._frames) >= MOST_OPEN:
            self._frames[0].close()
        self._frames.append(frames)

    def remove(self, frames: "IndexedFrames") -> None:
        """One has been closed, or never was open."""
        if frames in self._frames:
            self._frames.remove(frames)


class IndexedFrames:
    """The frames of one recording up to one of them. Can be pickled: a copy has its own decoder.

    Not for several threads at once.
    """

    def __init__(
        self,
        path: Path,
        last: int,
        limits: Limits = DEFAULT_LIMITS,
        open_decoders: "OpenDecoders | None" = None,
    ) -> None:
        """Decodes frames 0 to ``last``. Raises SourceError.

        ``open_decoders``: in common with other recordings, of which only some stay open.
        """
        self._path = path
        self._open_decoders = open_decoders or OpenDecoders()
        self._limits = limits
        pictures = open_pictures(path, limits=limits)
        self._entries: list[IndexEntry] = []
        for decoded in pictures:
            picture = decoded.picture
            self._entries.append(
                IndexEntry(
                    picture.pts,
                    bool(picture.key_frame),
                    decoded.orientation,
                    decoded.size,
                    _checksum(picture),
                )
            )
            if len(self._entries) > last:
                break
        if not self._entries:
            raise pictures.no_picture()
        self._key_frames = self._find_key_frames(pictures)
        self._index_of = {entry.pts: index for index, entry in enumerate(self._entries)}
        """Tells frames apart by their times, where there are key frames to start from."""
        self._earlier = 0
        """By how many key frames: in transport streams FFmpeg seeks to a later one."""
        self._next: int
        """The frame that an open decoder gives next, as far as is known."""
        self._reset()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the open decoder."""
        return vars(self) | {"_decoder": None, "_converter": None}

    @property
    def count(self) -> int:
        """How many frames there are, up to the last that was asked for."""
        return len(self._entries)

    def size(self, frame_index: int) -> tuple[int, int]:
        """(height, width) of a frame, upright."""
        return self._entries[frame_index].size

    def key_frame_before(self, frame_index: int) -> int:
        """The frame at which a decoder starts that is to give this one."""
        return self._key_frames[self._key_frame_number(frame_index)]

    def read(self, frame_index: int) -> npt.NDArray[np.uint8]:
        """(H, W, 3) RGB, upright. Raises SourceError if the file has changed, or cannot be read."""
        picture = None
        if self._decoder and self._start_before(frame_index) <= self._next <= frame_index:
            picture = self._decoded(frame_index)
        while picture is None:
            start = self._start_before(frame_index)
            self._begin(start)
            picture = self._decoded(frame_index)
            if picture is not None or start == 0:
                break
            self._seek_earlier()
        if picture is None:
            raise SourceError(f"{self._path}: frame {frame_index} has changed or is gone")
        return self._converter.convert(picture, self._entries[frame_index].orientation)

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        if self._decoder is not None:
            self._decoder.close()
        self._open_decoders.remove(self)
        self._reset()

    def _reset(self) -> None:
        self._decoder: Decoder | None = None
        self._converter = PictureConverter(None)

    def _start_before(self, frame_index: int) -> int:
        """The key frame to seek for a frame; 0 for the beginning."""
        return self._key_frames[max(self._key_frame_number(frame_index) - self._earlier, 0)]

    def _key_frame_number(self, frame_index: int) -> int:
        """Which of the key frames is the last one before a frame, or is the frame."""
        return bisect_right(self._key_frames, frame_index) - 1

    def _seek_earlier(self) -> None:
        """Seeking led to another picture: from now on seek the key frame before, or none."""
        self._earlier += 1
        if self._earlier > MOST_EARLIER:
            self._key_frames = [0]
            log.warning(
                "%s: FFmpeg cannot seek in it exactly, so that it is decoded from its beginning "
                "again and again, which is slow: copy it to MP4",
                self._path,
            )

    def _begin(self, frame_index: int) -> None:
        """Let a decoder start at a frame: the first, or a key frame."""
        self.close()
        self._open_decoders.add(self)
        self._next = frame_index
        if frame_index == 0:
            self._decoder = self._from_the_beginning()
        else:
            self._decoder = self._from_key_frame(frame_index)

    def _from_the_beginning(self) -> Decoder:
        yield from enumerate(open_pictures(self._path, limits=self._limits))

    def _from_key_frame(self, frame_index: int) -> Decoder:
        """Frames from about a key frame on, with the indices that belong to their times."""
        pts = self._entries[frame_index].pts
        assert pts is not None  # else there are no key frames to start from
        for decoded in DecodedPictures(self._path, limits=self._limits).since(pts):
            index = self._index_of.get(decoded.picture.pts)
            if index is not None:
                yield index, decoded

    def _decoded(self, frame_index: int) -> av.VideoFrame | None:
        """The picture of a frame; None if it is not the one that the first pass saw."""
        assert self._decoder is not None
        try:
            for index, decoded in self._decoder:
                self._next = index + 1
                if index > frame_index:
                    return None
                if index == frame_index:
                    is_same = _checksum(decoded.picture) == self._entries[index].checksum
                    return decoded.picture if is_same else None
        except FFmpegError:  # it cannot seek
            return None
        return None

    def _find_key_frames(self, pictures: PictureReader) -> list[int]:
        """Where decoders may start: the beginning, and key frames if times tell frames apart."""
        if not isinstance(pictures, DecodedPictures):
            return [0]
        times = [entry.pts for entry in self._entries if entry.pts is not None]
        rising = all(a < b for a, b in pairwise(times))
        if len(times) < self.count or not rising or len(list(pictures.parts())) > 1:
            return [0]
        return [0, *(i for i, entry in enumerate(self._entries[1:], 1) if entry.is_key)]


def _checksum(picture: av.VideoFrame) -> int:
    """Of its first plane, without the padding at the end of each row."""
    plane = picture.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
    parts = [each for each in picture.format.components if each.plane == 0]
    used = sum(math.ceil(each.bits / 8) * each.width for each in parts)
    return zlib.crc32(rows[:, :used].tobytes())
