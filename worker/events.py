"""Events: CloudEvents 1.0 in JSON (structured mode), one per analysed frame or camera state.

The schema is the contract with consumers. A leaf: it knows neither video nor transport.
"""

from datetime import datetime
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, TypeAdapter

SCORE_DECIMALS = 4
BOX_DECIMALS = 5

CameraState = Literal["up", "down", "degraded", "ended"]


class _Model(BaseModel):
    # JSON has no NaN or infinity.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Detection(_Model):
    """One detected object."""

    label: str
    class_id: int
    score: float
    box: tuple[float, float, float, float]
    """xyxy in [0, 1] of the frame, origin top left."""


class ModelInfo(_Model):
    """The model that made the detections."""

    name: str
    digest: str


class EventData(_Model):
    """The fields common to every event's data."""

    camera_id: str
    mode: Literal["live", "replay"]
    epoch: int
    """Identifies one connection to a camera, by Unix time in milliseconds; 0 in a replay."""
    seq: int
    """Counts the events of an epoch from 0: a gap means lost events."""


class DetectionsData(EventData):
    """One analysed frame."""

    frame_index: int
    file_name: str | None = None
    """The picture's own name, in a replay of still pictures."""
    pts: int | None = None
    time_base: str
    pts_seconds: float | None = None
    clock: Literal["rtcp", "arrival", "file"]
    width: int
    height: int
    skipped: int
    dropped: int
    model: ModelInfo
    detections: tuple[Detection, ...]


class CameraData(EventData):
    """The state of a camera."""

    state: CameraState
    reason: str
    detail: str = ""
    frames: int
    """Frames decoded in this epoch so far."""
    dropped: int
    """Frames dropped under overload in this epoch so far; for ``degraded``, events lost."""


class _CloudEvent(_Model):
    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    type: str
    time: datetime | None = None
    datacontenttype: Literal["application/json"] = "application/json"
    _place: tuple[str, str] | None = PrivateAttr(None)

    @property
    def entry_id(self) -> str | None:
        """The id of the Redis entry that the event was read from; None if it was not.

        Says where an event was found and not what it is: the JSON and the schema lack it, and
        events that differ in it only are equal.
        """
        return self._place and self._place[1]

    @property
    def place(self) -> tuple[str, str] | None:
        """The key of the stream and the entry id that the event was read from, if it was."""
        return self._place

    def __eq__(self, other: object) -> bool:
        # pydantic's own would compare the place, too.
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def to_json(self) -> str:
        """Compact JSON; equal events give equal bytes. Fields that are None are omitted."""
        return self.model_dump_json(exclude_none=True)


class DetectionsEvent(_CloudEvent):
    """The detections in one frame."""

    type: Literal["ssd.detections.v1"] = "ssd.detections.v1"
    data: DetectionsData
    _captured_monotonic: float | None = PrivateAttr(None)

    @property
    def captured_monotonic(self) -> float | None:
        """When the frame was captured, by this process's monotonic clock.

        None for an event that was read from JSON, and for a recording's. As ``entry_id``, it is no
        part of the event.
        """
        # Not self._captured_monotonic: the way through pydantic takes 2 us, 20 times as long.
        private = self.__pydantic_private__
        return None if private is None else private["_captured_monotonic"]

    def note_capture(self, captured_monotonic: float | None) -> None:
        """Keep when the frame was captured, to measure how long its event takes."""
        if self.__pydantic_private__ is not None:
            self.__pydantic_private__["_captured_monotonic"] = captured_monotonic


class CameraEvent(_CloudEvent):
    """A camera's state: distinguishes "nothing seen" from "not looking"."""

    type: Literal["ssd.camera.v1"] = "ssd.camera.v1"
    data: CameraData


Event: TypeAlias = DetectionsEvent | CameraEvent

EVENT_TYPES = ("ssd.detections.v1", "ssd.camera.v1")

_ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


def parse_event(text: str | bytes, place: tuple[str, str] | None = None) -> Event:
    """Parse an event's JSON. Raises pydantic.ValidationError (a ValueError).

    ``place``: the key of the stream and the entry id that it was read from.
    """
    event = _ADAPTER.validate_json(text)
    event._place = place
    return event
