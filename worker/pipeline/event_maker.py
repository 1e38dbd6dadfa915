"""Making events: a batch and what was found in it in, events numbered per camera out.

Holds the one piece of state a camera's events need: epoch, next seq, and the counts that the next
event has to report. Used by one thread.
"""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
from worker.frames import Frame, FrameBatch, StreamDown, StreamUp

HEARTBEAT_SECONDS = 10.0


@dataclass
class _Camera:
    epoch: int = 0
    next_seq: int = 0
    frames: int = 0
    dropped: int = 0
    unreported_dropped: int = 0
    unreported_skipped: int = 0
    state: CameraState = "down"
    reason: str = "connecting"
    last_event: float = 0.0


class EventMaker:
    """Events of one run: of all its cameras, or of one recording."""

    def __init__(
        self, model: ModelInfo, *, recording_digest: str | None = None, publish_all: bool = False
    ) -> None:
        """``recording_digest`` makes the events of a replay: every frame gets one, no clock does.

        ``publish_all`` gives live frames without detections an event too.
        """
        self._model = model
        self._recording_digest = recording_digest
        self._publish_all = publish_all or recording_digest is not None
        self._cameras: dict[str, _Camera] = {}
        self._lost: Counter[str] = Counter()

    def make(self, batch: FrameBatch, found: Sequence[Sequence[Detection]]) -> list[Event]:
        """The events of a batch, in order; ``found`` has one entry per frame of the batch."""
        events: list[Event] = []
        detections_of = iter(found)
        for item in batch.items:
            if isinstance(item, Frame):
                events += self._frame(item, next(detections_of))
            elif isinstance(item, StreamUp):
                events += self._up(item)
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
                camera_id,
                camera.state,
                "heartbeat" if camera.state == "up" else camera.reason,
            )
            for camera_id, camera in self._cameras.items()
            if camera.state != "ended" and now - camera.last_event >= HEARTBEAT_SECONDS
        ]

    def lost(self, events_lost: dict[str, int]) -> list[Event]:
        """One ``degraded`` event per camera whose made events were lost before publishing.

        A camera that has not come up yet, since the events are those of an earlier process, is told
        of later.
        """
        self._lost.update(events_lost)
        return [
            self._camera_event(
                camera_id, "degraded", "events_lost", dropped=self._lost.pop(camera_id)
            )
            for camera_id in [*self._lost]
            if camera_id in self._cameras
        ]

    def stopped(self) -> list[Event]:
        """The last event of every live camera that is not down already: the worker goes."""
        if self._recording_digest is not None:
            return []
        return [
            self._down_event(camera_id, "down", "stopped")
            for camera_id, camera in self._cameras.items()
            if camera.state == "up"
        ]

    def _frame(self, frame: Frame, detections: Sequence[Detection]) -> Iterable[Event]:
        camera = self._camera(frame.camera_id, frame.epoch)
        camera.frames = frame.frame_index + 1
        camera.dropped += frame.dropped
        camera.unreported_dropped += frame.dropped
        camera.unreported_skipped += frame.skipped
        if not detections and not self._publish_all:
            return []
        seq = self._take_seq(camera)
        event = DetectionsEvent(
            id=self._event_id(frame.camera_id, camera, seq, str(frame.frame_index)),
            source=f"ssd-worker/{frame.camera_id}",
            time=frame.captured_at,
            data=DetectionsData(
                camera_id=frame.camera_id,
                mode=self._mode,
                epoch=frame.epoch,
                seq=seq,
                frame_index=frame.frame_index,
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
        camera.unreported_dropped = camera.unreported_skipped = 0
        return [event]

    def _up(self, item: StreamUp) -> Iterable[Event]:
        camera = self._camera(item.camera_id, item.epoch)
        if self._recording_digest is not None:
            camera.next_seq = item.first_seq
            return []
        camera.state, camera.reason = "up", "connected"
        return [self._camera_event(item.camera_id, "up", "connected")]

    def _down(self, item: StreamDown) -> Iterable[Event]:
        camera = self._camera(item.camera_id, item.epoch)
        camera.frames = max(camera.frames, item.frames)
        return [self._down_event(item.camera_id, item.state, item.reason, item.detail)]

    def _down_event(
        self, camera_id: str, state: CameraState, reason: str, detail: str = ""
    ) -> Event:
        camera = self._cameras[camera_id]
        camera.state, camera.reason = state, reason
        return self._camera_event(camera_id, state, reason, detail)

    def _camera_event(
        self,
        camera_id: str,
        state: CameraState,
        reason: str,
        detail: str = "",
        dropped: int | None = None,
    ) -> Event:
        camera = self._cameras[camera_id]
        seq = self._take_seq(camera)
        live = self._recording_digest is None
        return CameraEvent(
            id=self._event_id(camera_id, camera, seq, state),
            source=f"ssd-worker/{camera_id}",
            time=datetime.now(UTC) if live else None,
            data=CameraData(
                camera_id=camera_id,
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

    def _event_id(self, camera_id: str, camera: _Camera, seq: int, in_recording: str) -> str:
        if self._recording_digest is not None:
            return f"{self._recording_digest}/{in_recording}"
        return f"{camera_id}/{camera.epoch}/{seq}"

    def _camera(self, camera_id: str, epoch: int | None) -> _Camera:
        """The camera's state, begun anew when its epoch is new; unreported counts live on."""
        camera = self._cameras.setdefault(camera_id, _Camera(epoch=epoch or 0))
        if epoch is not None and camera.epoch != epoch:
            camera.epoch, camera.next_seq = epoch, 0
            camera.frames = camera.dropped = 0
        return camera

    def _take_seq(self, camera: _Camera) -> int:
        seq = camera.next_seq
        camera.next_seq += 1
        camera.last_event = time.monotonic()
        return seq
