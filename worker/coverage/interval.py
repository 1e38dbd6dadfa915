"""Intervals: the units of a camera's timeline."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

State = Literal[
    "watched",
    "reduced",
    "down",
    "worker_down",
    "lost",
    "unknown",
]
STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True, slots=True)
class Interval:
    """A time during which a camera's state was the same."""

    start: datetime
    """UTC."""
    end: datetime
    state: State
    reason: str
    """Why, as in docs/coverage.md; "" for ``watched``."""
    frames_analysed: int = 0
    frames_dropped: int = 0
    """Lost to overload."""
    frames_skipped: int = 0
    """Not analysed by choice."""
    events_lost: int = 0
    """Of ``lost``: how many events are missing, as far as that is known."""

    @property
    def seconds(self) -> float:
        """How long it is."""
        return (self.end - self.start).total_seconds()

    def as_dict(self) -> dict[str, object]:
        """For JSON: times in ISO 8601, UTC."""
        return {
            "start": in_utc(self.start),
            "end": in_utc(self.end),
            "state": self.state,
            "reason": self.reason,
            "frames_analysed": self.frames_analysed,
            "frames_dropped": self.frames_dropped,
            "frames_skipped": self.frames_skipped,
            "events_lost": self.events_lost,
        }


def in_utc(time: datetime) -> str:
    """A time in ISO 8601 with a Z, as events have it."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
