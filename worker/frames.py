"""What sources yield: frames, and markers for a stream going up or down.

A leaf: value objects without behaviour, shared by every part that handles video.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Literal, NamedTuple, Protocol, TypeAlias

from worker.snapshots import Snapshot

Clock = Literal["rtcp", "arrival", "file"]
"""Where a capture time comes from: the camera's RTCP reports, this host's clock, the file."""


class Picture(Protocol):
    """A detector's input: an (H, W, 3) RGB array, or the planes of a video picture."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(height, width, 3)."""
        ...


class ShownPicture(NamedTuple):
    """A whole picture of a recording, as a player shows it but for the shape of its pixels."""

    frame_index: int
    image: Picture
    """(H, W, 3) RGB, upright."""
    stays_seconds: Fraction | None = None
    """How long it is shown, if the recording says so."""
    primaries: int = 2
    """What red, green and blue are: a code of ITU-T H.273, table 2; 2: not stated."""
    transfer: int = 2
    """How values become light: a code of ITU-T H.273, table 3; 2: not stated."""


CAMERA_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True, eq=False)  # comparing arrays gives an array, not a bool
class Frame:
    """One image with its pts."""

    camera_id: str
    epoch: int
    """The connection that delivered it, by Unix time in milliseconds; 0 in a replay."""
    frame_index: int
    """Position among the decoded frames of the epoch or recording, from 0."""
    pts: int | None
    """Presentation time in ticks of ``time_base``; None if the stream has none."""
    time_base: Fraction
    captured_at: datetime | None
    """UTC; None for a recording that does not state its start."""
    clock: Clock
    width: int
    """Of the camera's picture, not of ``image``: in pixels, after rotation."""
    height: int
    image: Picture
    """Upright: RGB already scaled to the network's input, or planes for a detector that scales."""
    file_name: str | None = None
    """The picture's own name, in a folder of pictures."""
    captured_monotonic: float | None = None
    """When it was captured, by the monotonic clock, as far as that is known; None in a replay."""
    damaged: bool = False
    """Whether a camera's picture shows something older in places: parts were lost on the way."""
    skipped: int = 0
    """Frames not analysed by choice since the last one yielded."""
    dropped: int = 0
    """Frames dropped under overload since the last one yielded."""
    decode_seconds: float = 0.0
    """How long its source took to decode and convert it, without waiting for the camera."""
    read_at: float | None = None
    """When its source had it ready, by the monotonic clock."""
    snapshot: Snapshot | None = None
    """Of this frame's picture, or of one in the same epoch that this frame has replaced."""


@dataclass(frozen=True, slots=True)
class StreamUp:
    """A source starts to deliver frames, under a new epoch."""

    camera_id: str
    epoch: int
    first_seq: int = 0
    """The number of the epoch's next event: above 0 in a resumed replay."""


@dataclass(frozen=True, slots=True)
class StreamDown:
    """A source has stopped delivering frames, for now ("down") or for good ("ended")."""

    camera_id: str
    epoch: int | None
    """None means the camera's current epoch."""
    state: Literal["down", "ended"]
    reason: str
    """A code from the table in docs/events.md."""
    detail: str = ""
    """For people; never contains a URL."""
    frames: int = 0
    """Frames decoded in the epoch or recording."""
    skipped: int = 0
    """Frames not analysed by choice since the last item that counted them."""
    dropped: int = 0
    """Frames dropped since then."""


@dataclass(frozen=True, slots=True)
class StreamLate:
    """A camera's pictures are late; repeated while they are, and while frames may come through."""

    camera_id: str
    epoch: int
    lag_seconds: float
    skipped: int = 0
    """Frames not analysed by choice since the last item that counted them."""
    dropped: int = 0
    """Frames dropped since then."""


SourceItem: TypeAlias = Frame | StreamUp | StreamDown | StreamLate


class Source(Protocol):
    """A camera or a recording."""

    camera_id: str

    @property
    def due_at(self) -> float:
        """When the reading thread gives its next sign of life at the latest, by the monotonic
        clock. Once that has passed it hangs, in a decoder or a driver.
        """
        ...

    def current_epoch(self) -> int:
        """The epoch of the latest connection, named now if there was none; from any thread."""
        ...

    def __iter__(self) -> Iterator[SourceItem]:
        """Frames in pts order, between StreamUp and StreamDown."""
        ...

    def stop(self) -> None:
        """End the iteration soon; callable from any thread, any number of times."""
        ...


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """Frames to detect at once, and stream markers, in the order their events are published."""

    items: tuple[SourceItem, ...]

    @property
    def frames(self) -> list[Frame]:
        """The frames among the items."""
        return [item for item in self.items if isinstance(item, Frame)]
