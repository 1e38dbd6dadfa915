"""What sources give: frames, and when a stream comes up or goes down.

A leaf: value objects without behaviour, known to every part that handles video.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Literal, Protocol, TypeAlias

Clock = Literal["rtcp", "arrival", "file"]
"""Where a capture time comes from: the camera's RTCP reports, our own clock, the file."""


class Picture(Protocol):
    """What a detector takes: an (H, W, 3) RGB array, or the planes of a video picture."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(height, width, 3)."""
        ...


CAMERA_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True, eq=False)  # arrays do not compare to one truth
class Frame:
    """One image with its pts."""

    camera_id: str
    epoch: int
    """The connection it came over: milliseconds since 1970; 0 in a replay."""
    frame_index: int
    """Position among the decoded frames of the epoch or recording, from 0."""
    pts: int | None
    """Presentation time in ticks of ``time_base``; None where the stream gives none."""
    time_base: Fraction
    captured_at: datetime | None
    """UTC; None for a recording that does not state its start."""
    clock: Clock
    width: int
    """Of the camera's picture, in pixels, after rotation."""
    height: int
    image: Picture
    """Upright: RGB already scaled to the network's input, or planes for a detector that scales."""
    skipped: int = 0
    """Frames not looked at by choice since the last one given."""
    dropped: int = 0
    """Frames lost to overload since the last one given."""


@dataclass(frozen=True, slots=True)
class StreamUp:
    """A source delivers frames from here on, under a new epoch."""

    camera_id: str
    epoch: int
    first_seq: int = 0
    """Where the events of the epoch go on: above 0 in a resumed replay."""


@dataclass(frozen=True, slots=True)
class StreamDown:
    """A source delivers no frames for now ("down"), or none any more ("ended")."""

    camera_id: str
    epoch: int | None
    """None: the camera's current one."""
    state: Literal["down", "ended"]
    reason: str
    """A code: see the README's table."""
    detail: str = ""
    """For people; never holds a URL."""
    frames: int = 0
    """Decoded in the epoch or recording."""


SourceItem: TypeAlias = Frame | StreamUp | StreamDown


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
        """Make the iteration end soon; callable from any thread, any number of times."""
        ...


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """What the detector takes at once, in the order in which events are to be made."""

    items: tuple[SourceItem, ...]

    @property
    def frames(self) -> list[Frame]:
        """The frames among the items."""
        return [item for item in self.items if isinstance(item, Frame)]
