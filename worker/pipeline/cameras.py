"""The cameras of a run: what is wanted of each, and one record of how each is doing.

The pipeline's thread is the only writer of a record: events are made from it, and heartbeats. Other
threads may read it. A recording is a camera here, too.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from worker.events import CameraState
from worker.frames import Frame, Source, StreamDown, StreamLate
from worker.pipeline.filtering import EVERYTHING, DetectionFilter


@dataclass(frozen=True)
class Camera:
    """A camera to watch: how to read it, and what to publish of it."""

    camera_id: str
    open: Callable[[], Source] = field(compare=False)
    """Makes a source; called again whenever the camera is reconnected."""
    source_settings: Hashable = None
    """What ``open`` depends on: only if it changes is the camera reconnected."""
    filter: DetectionFilter = EVERYTHING


@dataclass
class CameraRecord:
    """What is known of one camera."""

    camera_id: str
    filter: DetectionFilter = EVERYTHING
    wanted: bool = True
    """False once it is no longer watched: the record ends with ``last_item``."""
    last_item: StreamDown | None = None
    """The last item of the reader that was taken down last, until its event is made."""
    state: CameraState = "down"
    reason: str = "connecting"
    detail: str = ""
    """For people, on the last change of its state."""
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    """When it came into this state."""
    epoch: int = 0
    """Its connection; 0 before the first, and in a replay."""
    next_seq: int = 0
    frames: int = 0
    """Decoded in this epoch."""
    dropped: int = 0
    """Frames lost to overload in this epoch."""
    unreported_dropped: int = 0
    """Frames lost to overload since the last event that counted them; outlives the epoch."""
    unreported_skipped: int = 0
    last_frame_at: float | None = None
    """When a frame of it was last analysed, by the monotonic clock."""
    captured_at: float | None = None
    """When that frame was captured, by the monotonic clock; None before the epoch's first one."""
    lag_seconds: float | None = None
    """How old its newest picture was when it was analysed, or when it was found to be late."""
    degraded_at: float = 0.0
    """When a picture of it was last late or damaged, whichever it is degraded by, by the monotonic
    clock.
    """
    last_event_at: float = 0.0
    """When its last event was made, by the monotonic clock; 0 before the first."""

    def begin(self, epoch: int) -> None:
        """Count from 0 in a new epoch; what is unreported stays."""
        self.epoch, self.next_seq = epoch, 0
        self.frames = self.dropped = 0
        self.captured_at = self.lag_seconds = None  # those of an older picture

    def count(self, item: Frame | StreamLate | StreamDown) -> None:
        """Frames that were not analysed before this item."""
        self.dropped += item.dropped
        self.unreported_dropped += item.dropped
        self.unreported_skipped += item.skipped


class CameraRecords:
    """The records of a run by camera id."""

    def __init__(self) -> None:
        self._records: dict[str, CameraRecord] = {}

    def __iter__(self) -> Iterator[CameraRecord]:
        return iter(list(self._records.values()))

    def __contains__(self, camera_id: str) -> bool:
        return camera_id in self._records

    def of(self, camera_id: str) -> CameraRecord:
        """The camera's record, new if it has none."""
        return self._records.setdefault(camera_id, CameraRecord(camera_id))

    def forget(self, camera_id: str) -> None:
        """Drop the record of a camera that is not watched any more."""
        self._records.pop(camera_id, None)
