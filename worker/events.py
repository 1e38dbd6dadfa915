"""Events: CloudEvents 1.0 in JSON (structured mode), one per analysed frame or camera state.

The schema is the contract with consumers. A leaf: knows neither video nor transport.
"""

from datetime import datetime
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

SCORE_DECIMALS = 4
BOX_DECIMALS = 5

CameraState = Literal["up", "down", "degraded", "ended"]


class _Model(BaseModel):
    # JSON cannot write what is not finite.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Detection(_Model):
    """One detected object."""

    label: str
    class_id: int
    score: float
    box: tuple[float, float, float, float]
    """xyxy in [0, 1] of the frame, origin top left."""


class ModelInfo(_Model):
    """The model that looked."""

    name: str
    digest: str


class EventData(_Model):
    """What every event's data has."""

    camera_id: str
    mode: Literal["live", "replay"]
    epoch: int
    """Names one connection of a camera: milliseconds since 1970; 0 in a replay."""
    seq: int
    """Rises by one per event of an epoch, from 0: a hole means lost events."""


class DetectionsData(EventData):
    """One analysed frame."""

    frame_index: int
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
    """Decoded and delivered in this epoch so far."""
    dropped: int
    """Frames lost to overload in this epoch so far; for ``degraded``, events lost."""


class _CloudEvent(_Model):
    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    type: str
    time: datetime | None = None
    datacontenttype: Literal["application/json"] = "application/json"

    def to_json(self) -> str:
        """Compact JSON; equal events give equal bytes. Fields that are None are left out."""
        return self.model_dump_json(exclude_none=True)


class DetectionsEvent(_CloudEvent):
    """What was seen in one frame."""

    type: Literal["ssd.detections.v1"] = "ssd.detections.v1"
    data: DetectionsData


class CameraEvent(_CloudEvent):
    """A camera's state: tells "nothing seen" from "not looking"."""

    type: Literal["ssd.camera.v1"] = "ssd.camera.v1"
    data: CameraData


Event: TypeAlias = DetectionsEvent | CameraEvent

_ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


def parse_event(text: str | bytes) -> Event:
    """The event of its JSON. Raises pydantic.ValidationError (a ValueError)."""
    return _ADAPTER.validate_json(text)
