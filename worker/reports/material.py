"""What a report is made of: the sums of each camera, its coverage and pictures, and what to know.

Values only; the page and the plots are made from them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from worker.coverage import Interval
from worker.reports.camera import CameraSum
from worker.reports.pictures import Picture, ShownFrame
from worker.reports.timeline import Kind

MOST_GAPS = 50


@dataclass
class CameraMaterial:
    """One camera, or one recording."""

    camera: CameraSum
    period: tuple[datetime, datetime] | None = None
    """What time of a live camera it is about."""
    intervals: Sequence[Interval] = ()
    """When a live camera was watched; none for a replay."""
    frames: list[ShownFrame] = field(default_factory=list)
    """Examples, in order of time."""
    ground: Picture | None = None
    """What the heat map is drawn over."""
    ground_from: str = ""
    """What that is, in words."""
    no_examples: str = ""
    """Why there are none, and what to do."""
    notes: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw over time."""
        return self.camera.timeline.bins == 0

    def put_intervals_on_timeline(self) -> None:
        """Add the time in each state to the bins of the detections."""
        for each in self.intervals:
            self.camera.timeline.spread(
                state_kind(each), each.start.timestamp(), each.end.timestamp(), each.seconds
            )

    def seconds_by_style(self) -> dict[str, float]:
        """How long the camera was in each state, the longest first."""
        seconds = dict.fromkeys(STATE_NAMES, 0.0)
        for each in self.intervals:
            seconds[style_of(each)] += each.seconds
        return {
            style: seconds[style]
            for style in sorted(seconds, key=lambda style: -seconds[style])
            if seconds[style]
        }

    def gaps(self) -> tuple[list[Interval], int]:
        """The longest times that were not fully watched, in order; and how many more there are."""
        found = [each for each in self.intervals if style_of(each) not in ("watched", "skipped")]
        longest = sorted(found, key=lambda each: -each.seconds)[:MOST_GAPS]
        return sorted(longest, key=lambda each: each.start), len(found) - len(longest)


@dataclass
class Report:
    """The whole report."""

    title: str
    origin: str
    """Where the events are from, in words."""
    cameras: list[CameraMaterial]
    notes: list[str] = field(default_factory=list)
    made: datetime = field(default_factory=lambda: datetime.now(UTC))


STATE_NAMES = {
    "watched": "watched",
    "skipped": "watched at a lower rate, by choice",
    "reduced": "watched, but not every frame",
    "down": "camera down",
    "worker_down": "worker down",
    "lost": "events lost",
    "unknown": "unknown",
}
"""By style, in the order in which bars are stacked."""


def style_of(interval: Interval) -> str:
    """How an interval is shown: its state, or ``skipped`` for a lower rate by choice."""
    return "skipped" if interval.reason == "skipped" else interval.state


def state_kind(interval: Interval) -> Kind:
    """The kind of amount on the timeline: seconds in a state."""
    return ("state", style_of(interval))
