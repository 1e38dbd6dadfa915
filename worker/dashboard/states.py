"""State changes of a camera, told from the repetitions of its heartbeats.

Takes camera events; gives what the API shows of a change.
"""

from dataclasses import dataclass
from typing import Any

from worker.dashboard.times import iso, seconds_of
from worker.events import CameraEvent
from worker.secrecy.redaction import redact

MAX_REASON = 200
MAX_DETAIL = 500
"""Characters that are passed on: another tool may write any number."""


@dataclass(frozen=True)
class StateNote:
    """What one camera event says of its camera's state."""

    camera_id: str
    state: str
    reason: str
    detail: str
    time: float
    """Unix seconds."""

    @classmethod
    def of(cls, event: CameraEvent, camera_id: str, published: float) -> "StateNote":
        """``published``: when it reached Redis, for an event without a time."""
        data = event.data
        lost = f"{data.dropped} events were lost" if data.reason == "events_lost" else data.detail
        return cls(
            camera_id,
            data.state,
            data.reason[:MAX_REASON],
            redact(lost)[:MAX_DETAIL],
            seconds_of(event.time) or published,
        )

    @property
    def is_aside(self) -> bool:
        """Whether the camera's state stays as it was."""
        return self.reason == "events_lost"

    def repeats(self, state: str, reason: str) -> bool:
        """Whether the camera was in this state already, for this reason."""
        return self.state == state and self.reason in ("heartbeat", reason)

    def as_json(self) -> dict[str, Any]:
        """What the API shows of it."""
        return {
            "camera": self.camera_id,
            "state": self.state,
            "reason": self.reason,
            "detail": self.detail,
            "time": iso(self.time),
        }


def without_repetitions(notes: list[StateNote]) -> list[StateNote]:
    """The changes among these, oldest first; the first one counts as one."""
    changes: list[StateNote] = []
    state, reason = "", ""
    for note in notes:
        if note.is_aside:
            changes.append(note)
        elif not note.repeats(state, reason):
            changes.append(note)
            state, reason = note.state, note.reason
    return changes
