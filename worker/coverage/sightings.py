"""What an event says about when its camera was watched: an event, or its JSON, in, a sighting out.

Of an event's JSON only these fields are validated, not the detections: a day has millions of them.
"""

from datetime import datetime
from typing import Annotated, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from worker.events import CameraEvent, CameraState, Event

LARGEST = 2**63 - 1
"""Of the numbers in an event: larger ones are nobody's, and no float holds some."""


class Sighting(NamedTuple):
    """What one event says. Times are seconds since 1970."""

    camera_id: str
    epoch: int
    seq: int
    at: float
    """The event's time."""
    published_at: float | None
    """The time of its entry in Redis, by the server's clock; None if it was not read from one."""
    by_camera: bool
    """Whether ``at`` is by the camera's clock, which may be a minute off, or by the worker's."""
    is_frame: bool
    """Whether it is an analysed frame."""
    state: CameraState | None
    """None for an analysed frame, and for events of a later version, which only say that it was
    watched."""
    reason: str
    frames: int
    """Decoded in the epoch so far."""
    dropped: int
    """In the epoch so far; of an analysed frame, and for ``events_lost``, since the last report."""
    skipped: int
    """Since the last analysed frame with an event; 0 for a state."""


Count: TypeAlias = Annotated[int, Field(ge=0, le=LARGEST)]


class _Data(BaseModel):
    model_config = ConfigDict(extra="ignore")

    camera_id: str
    mode: Literal["live", "replay"]
    epoch: Count
    seq: Count
    dropped: Count = 0
    clock: str = ""
    frame_index: Annotated[int, Field(ge=-1, le=LARGEST)] = -1
    skipped: Count = 0
    state: CameraState | None = None
    reason: str = ""
    frames: Count = 0


class _Event(BaseModel):
    model_config = ConfigDict(extra="ignore")

    type: str
    time: datetime | None = None
    data: _Data


def sighting_of(event: Event) -> Sighting | None:
    """What an event says; None for a replay's, and for one without a time or with mad numbers."""
    data = event.data
    if data.mode != "live" or event.time is None or max(data.epoch, data.seq) > LARGEST:
        return None
    at, published_at = event.time.timestamp(), _published_at(event.entry_id)
    numbers = (data.camera_id, data.epoch, data.seq, at, published_at)
    if isinstance(event, CameraEvent):
        state = event.data
        return Sighting(
            *numbers, False, False, state.state, state.reason, state.frames, state.dropped, 0
        )
    frame = event.data
    by_camera = frame.clock == "rtcp"
    frames = frame.frame_index + 1
    return Sighting(*numbers, by_camera, True, None, "", frames, frame.dropped, frame.skipped)


def parse_sighting(text: bytes, entry_id: str) -> Sighting | None:
    """The same from an event's JSON; raises ValueError for what is not an event."""
    event = _Event.model_validate_json(text)
    data = event.data
    is_frame = event.type == "ssd.detections.v1"
    if is_frame and data.frame_index < 0:
        raise ValueError("an analysed frame without its number")
    if event.type == "ssd.camera.v1" and data.state is None:
        raise ValueError("a state without a state")
    if data.mode != "live" or event.time is None:
        return None
    at, published_at = event.time.timestamp(), _published_at(entry_id)
    return Sighting(
        data.camera_id,
        data.epoch,
        data.seq,
        at,
        published_at,
        data.clock == "rtcp",
        is_frame,
        data.state if event.type == "ssd.camera.v1" else None,
        data.reason,
        data.frame_index + 1 if is_frame else data.frames,
        data.dropped,
        data.skipped,
    )


def _published_at(entry_id: str | None) -> float | None:
    return None if entry_id is None else int(entry_id.partition("-")[0]) / 1000
