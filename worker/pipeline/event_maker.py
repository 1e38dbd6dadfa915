"""Making events: a batch and its detections in, events numbered per camera out.

Numbers and counts from the records of the cameras, which it keeps up to date. Used by one thread.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from worker.events import (
    CameraData,
    CameraEvent,
    CameraState,
    Detection,
    DetectionsData,
    DetectionsEvent,
    Event,
    ModelInfo,
)
from worker.frames import Frame, FrameBatch, StreamDown, StreamLate, StreamUp
from worker.pipeline.cameras import CameraRecord, CameraRecords
from worker.pipeline.filtering import DetectionFilter

HEARTBEAT_SECONDS = 10.0
LATE_SECONDS = 1.5
"""Age of a picture, when its event is made, from which its camera is late: the event is published
within 2 s of its capture, or after a ``degraded`` event."""
RECOVERY_SECONDS = 10.0
"""A camera that was late or damaged counts as that until no picture was for this long."""
RECOVERED = {"late": "caught_up", "damaged": "recovered"}
"""The reason for ``up`` by the one for ``degraded``."""


class EventMaker:
    """Events of one run: of all its cameras, or of one recording."""

    def __init__(
        self, model: ModelInfo, *, recording_digest: str | None = None, publish_all: bool = False
    ) -> None:
        """``recording_digest`` is for a replay: every frame gets an event, which no clock affects.

        ``publish_all`` gives live frames without detections an event too.
        """
        self.records = CameraRecords()
        self._model = model
        self._recording_digest = recording_digest
        self._behind_seconds = 0.0
        """How long the oldest event has waited to be published."""
        self._publish_all = publish_all or recording_digest is not None

    def filters(self, batch: FrameBatch) -> list[DetectionFilter]:
        """What is published of each frame of the batch."""
        return [self.records.of(frame.camera_id).filter for frame in batch.frames]

    def make(self, batch: FrameBatch, found: Sequence[Sequence[Detection]]) -> list[Event]:
        """The events of a batch, in order; ``found`` has one entry per frame of the batch."""
        events: list[Event] = []
        detections_of = iter(found)
        for item in batch.items:
            if isinstance(item, Frame):
                events += self._frame(item, next(detections_of))
            elif isinstance(item, StreamUp):
                events += self._up(item)
            elif isinstance(item, StreamLate):
                events += self._late(item)
            else:
                events += self._down(item)
        return events

    def heartbeats(self) -> list[Event]:
        """One event for each live camera that has been quiet for ``HEARTBEAT_SECONDS``."""
        if self._recording_digest is not None:
            return []
        now = time.monotonic()
        return [
            self._camera_event(
                camera, camera.state, "heartbeat" if camera.state == "up" else camera.reason
            )
            for camera in self._reported()
            if camera.state != "ended" and now - camera.last_event_at >= HEARTBEAT_SECONDS
        ]

    def lost(self, events_lost: Mapping[str, int]) -> list[Event]:
        """One ``degraded`` event per camera whose events were lost before they were published."""
        return [
            self._camera_event(self.records.of(camera_id), "degraded", "events_lost", dropped=count)
            for camera_id, count in events_lost.items()
        ]

    def behind(self, seconds: float) -> list[Event]:
        """``degraded`` for the cameras whose events wait to be published, for too long by now."""
        self._behind_seconds = seconds
        if seconds <= LATE_SECONDS:
            return []
        detail = f"its events have waited {seconds:.1f} s to be published"
        return [e for camera in self._reported() for e in self._degrade(camera, "late", detail)]

    def reported(self) -> list[str]:
        """The cameras that have had an event in this run, so that their losses can be reported."""
        return [camera.camera_id for camera in self._reported()]

    def stopped(self) -> list[Event]:
        """The final ``down`` event of every live camera that is still up: the worker shuts down."""
        if self._recording_digest is not None:
            return []
        return [
            self._state_event(camera, "down", "stopped")
            for camera in self._reported()
            if camera.state in ("up", "degraded")
        ]

    def _reported(self) -> Iterator[CameraRecord]:
        """The cameras that have had an event in this run, and hence an epoch."""
        return (camera for camera in self.records if camera.last_event_at)

    def _frame(self, frame: Frame, detections: Sequence[Detection]) -> list[Event]:
        camera = self._camera(frame.camera_id, frame.epoch)
        camera.frames = frame.frame_index + 1
        camera.last_frame_at = time.monotonic()
        if frame.captured_monotonic is not None:
            camera.captured_at = frame.captured_monotonic
            camera.lag_seconds = camera.last_frame_at - frame.captured_monotonic
        events = self._condition_events(camera, frame)
        camera.count(frame)
        if not detections and not self._publish_all:
            return events
        events.append(self._detections_event(camera, frame, detections))
        return events

    def _condition_events(self, camera: CameraRecord, frame: Frame) -> list[Event]:
        """``degraded`` when its pictures begin to be late or damaged, ``up`` when they recover."""
        if frame.captured_monotonic is None:
            return []
        now = time.monotonic()
        age = now - frame.captured_monotonic + self._behind_seconds
        if age > LATE_SECONDS:
            return self._degrade(camera, "late", f"its pictures were {age:.1f} s old")
        if frame.damaged:
            return self._degrade(camera, "damaged", "parts of its pictures were lost on the way")
        if camera.state == "degraded" and self._has_recovered(camera, now):
            return [self._state_event(camera, "up", RECOVERED[camera.reason])]
        return []

    def _late(self, item: StreamLate) -> list[Event]:
        camera = self._camera(item.camera_id, item.epoch)
        camera.count(item)
        camera.lag_seconds = item.lag_seconds
        return self._degrade(camera, "late", f"its pictures were {item.lag_seconds:.1f} s old")

    def _degrade(
        self, camera: CameraRecord, reason: Literal["late", "damaged"], detail: str
    ) -> list[Event]:
        now = time.monotonic()
        if camera.state not in ("up", "degraded"):
            return []
        if (camera.reason, reason) == ("late", "damaged") and not self._has_recovered(camera, now):
            return []  # to be late is worse
        camera.degraded_at = now
        if camera.reason == reason:
            return []
        return [self._state_event(camera, "degraded", reason, detail)]

    def _has_recovered(self, camera: CameraRecord, now: float) -> bool:
        return now - camera.degraded_at > RECOVERY_SECONDS

    def _detections_event(
        self, camera: CameraRecord, frame: Frame, detections: Sequence[Detection]
    ) -> DetectionsEvent:
        seq = self._take_seq(camera)
        event = DetectionsEvent(
            id=self._event_id(camera, seq, str(frame.frame_index)),
            source=f"ssd-worker/{frame.camera_id}",
            time=frame.captured_at,
            data=DetectionsData(
                camera_id=frame.camera_id,
                mode=self._mode,
                epoch=frame.epoch,
                seq=seq,
                frame_index=frame.frame_index,
                file_name=frame.file_name,
                pts=frame.pts,
                time_base=f"{frame.time_base.numerator}/{frame.time_base.denominator}",
                pts_seconds=None
                if frame.pts is None
                else round(float(frame.pts * frame.time_base), 6),
                clock=frame.clock,
                width=frame.width,
                height=frame.height,
                skipped=camera.unreported_skipped,
                dropped=camera.unreported_dropped,
                model=self._model,
                detections=tuple(detections),
            ),
        )
        event.note_capture(frame.captured_monotonic)
        camera.unreported_dropped = camera.unreported_skipped = 0
        return event

    def _up(self, item: StreamUp) -> Iterable[Event]:
        camera = self._camera(item.camera_id, item.epoch)
        if self._recording_digest is not None:
            camera.next_seq = item.first_seq
            return []
        return [self._state_event(camera, "up", "connected")]

    def _down(self, item: StreamDown) -> Iterable[Event]:
        camera = self._camera(item.camera_id, item.epoch)
        camera.frames = max(camera.frames, item.frames)
        camera.count(item)
        if item is camera.last_item:  # others may wait before it: their events need the record
            camera.last_item = None
            if not camera.wanted:
                self.records.forget(camera.camera_id)
        return [self._state_event(camera, item.state, item.reason, item.detail)]

    def _state_event(
        self, camera: CameraRecord, state: CameraState, reason: str, detail: str = ""
    ) -> Event:
        if camera.state != state:
            camera.since = datetime.now(UTC)
        camera.state, camera.reason, camera.detail = state, reason, detail
        return self._camera_event(camera, state, reason, detail)

    def _camera_event(
        self,
        camera: CameraRecord,
        state: CameraState,
        reason: str,
        detail: str = "",
        dropped: int | None = None,
    ) -> Event:
        seq = self._take_seq(camera)
        live = self._recording_digest is None
        return CameraEvent(
            id=self._event_id(camera, seq, state),
            source=f"ssd-worker/{camera.camera_id}",
            time=datetime.now(UTC) if live else None,
            data=CameraData(
                camera_id=camera.camera_id,
                mode=self._mode,
                epoch=camera.epoch,
                seq=seq,
                state=state,
                reason=reason,
                detail=detail,
                frames=camera.frames,
                dropped=camera.dropped if dropped is None else dropped,
            ),
        )

    @property
    def _mode(self) -> Literal["live", "replay"]:
        return "live" if self._recording_digest is None else "replay"

    def _event_id(self, camera: CameraRecord, seq: int, in_recording: str) -> str:
        if self._recording_digest is not None:
            return f"{self._recording_digest}/{in_recording}"
        return f"{camera.camera_id}/{camera.epoch}/{seq}"

    def _camera(self, camera_id: str, epoch: int | None) -> CameraRecord:
        """The camera's record, begun again when its epoch is new."""
        camera = self.records.of(camera_id)
        if epoch is not None and camera.epoch != epoch:
            camera.begin(epoch)
        return camera

    def _take_seq(self, camera: CameraRecord) -> int:
        seq = camera.next_seq
        camera.next_seq += 1
        camera.last_event_at = time.monotonic()
        return seq
