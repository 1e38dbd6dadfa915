"""What the readers of recordings have in common: decoded pictures out, and what went wrong.

A recording is a file with a container, an animated WebP, or a folder of pictures. Knows nothing of
frames, sampling and events.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import av

from worker.errors import SourceError
from worker.sources.orientation import Orientation


@dataclass(frozen=True, slots=True)
class DecodedPicture:
    """A picture of a recording, and what it takes to show it."""

    picture: av.VideoFrame
    orientation: Orientation
    has_time: bool = True
    """Whether the pts says when it is shown; in a folder it says nothing."""
    file_name: str | None = None
    """Of a still picture: its own."""
    taken_at: datetime | None = None
    """Of a still picture: when it was taken, in UTC, if it says so with its time zone."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) once upright."""
        return self.orientation.upright_size(self.picture.height, self.picture.width)


class PictureReader(Protocol):
    """Reads a recording from its start, once."""

    damaged: int
    """Packets that cannot be decoded, and pictures with errors in them."""
    cut_off: bool
    """Whether it ends before it should: at an error, or before its stated end."""
    over_limit: str
    """The exceeded limit at which reading stopped, or ""."""
    broken: list[str]
    """Of a folder: the names of pictures with errors in them."""

    def __iter__(self) -> Iterator[DecodedPicture]:
        """Pictures in presentation order. Raises SourceError if nothing can be opened."""
        ...

    def no_picture(self) -> SourceError:
        """The error for a recording without a decodable picture."""
        ...
