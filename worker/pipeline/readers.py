"""Readers: one thread per camera, from its source into the batcher.

Cameras are added and removed while others are being read. A source that fails ends its camera, or,
where nothing may be lost, the run. A source that hangs, inside a decoder or a driver, gives no sign
of life and cannot be stopped: its camera is reported down, its thread abandoned, and the camera
reconnected, until too many of its threads hang. Knows the protocol of sources and no concrete
one. All but the reading itself happens in the pipeline's thread.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from worker.errors import SinkError
from worker.frames import Source, StreamDown
from worker.pipeline.batching import Batcher
from worker.pipeline.cameras import Camera, CameraRecords

log = logging.getLogger(__name__)

CONFIRM_SECONDS = 1.0
"""How long a sign of life must be overdue, over several looks: if the whole process was stopped or
starved of CPU time, readers are late without hanging."""
CONFIRM_LOOKS = 3
MAX_HUNG_THREADS = 3
"""Threads of one camera that may hang at a time; each holds a connection and some memory."""


class Accepts(Protocol):
    """What readers ask of a publisher."""

    @property
    def refused(self) -> Mapping[str, str]:
        """Cameras whose events are not accepted any more, and why."""
        ...

    @property
    def held(self) -> Mapping[str, str]:
        """Cameras that other workers watch at present, and what to do about it."""
        ...

    def add_cameras(self, camera_ids: Sequence[str]) -> None:
        """Accept the events of these cameras, too."""
        ...

    def remove_cameras(self, camera_ids: Sequence[str]) -> None:
        """Forget cameras that were added and are not watched yet."""
        ...

    def may_watch(self, camera_id: str) -> bool:
        """Whether an added camera may be watched now."""
        ...


class _Reader:
    """The thread of one source."""

    def __init__(self, camera: Camera, readers: "Readers") -> None:
        self.camera = camera
        self.source: Source = camera.open()
        self._readers = readers
        self._lock = threading.Lock()
        self._abandoned = False
        self._overdue_since: float | None = None
        self._looks = 0
        self.thread = threading.Thread(
            target=self._read, name=f"source-{camera.camera_id}", daemon=True
        )
        self.thread.start()

    def _read(self) -> None:
        try:
            for item in self.source:
                with self._lock:  # nothing may follow the camera's StreamDown
                    if self._abandoned or not self._readers.batcher.put(item):
                        return
        except Exception as error:
            with self._lock:
                if not self._abandoned:
                    self._readers.failed(self.camera.camera_id, error)

    def abandon(self) -> None:
        """Accept nothing more from the source, whether or not its thread ends."""
        self.source.stop()
        with self._lock:
            self._abandoned = True

    def hangs(self, now: float) -> bool:
        """Whether the thread has given no sign of life for too long, seen at several looks."""
        if now <= self.source.due_at or not self.thread.is_alive():
            self._overdue_since, self._looks = None, 0
            return False
        self._overdue_since = self._overdue_since or now
        self._looks += 1
        return now - self._overdue_since >= CONFIRM_SECONDS and self._looks >= CONFIRM_LOOKS


class Readers:
    """The readers of a run."""

    def __init__(
        self, batcher: Batcher, publisher: Accepts, records: CameraRecords, *, lossless: bool
    ) -> None:
        """``lossless``: a source that fails ends the run, through ``failure``."""
        self.batcher = batcher
        self.failure: Exception | None = None
        self._publisher = publisher
        self._records = records
        self._lossless = lossless
        self._asked: deque[Sequence[Camera]] = deque()
        self._readers: dict[str, _Reader] = {}
        self._waiting: dict[str, Camera] = {}
        """Cameras that may not be watched yet."""
        self._hung: dict[str, list[threading.Thread]] = {}
        self._set_aside: dict[str, tuple[Camera, str]] = {}
        """Cameras that are wanted and cannot be watched in this run, and why."""

    @property
    def have_ended(self) -> bool:
        """Whether every source has ended, and none waits to begin."""
        return not self._waiting and not any(
            reader.thread.is_alive() for reader in self._readers.values()
        )

    def watch(self, cameras: Sequence[Camera]) -> None:
        """Read these cameras and no others, from the next ``look_after`` on; from any thread."""
        self._asked.append(cameras)

    def look_after(self) -> None:
        """Apply what ``watch`` asked for; reconnect or set aside cameras that cannot continue.

        Raises SinkError if no camera is left that can be watched.
        """
        while self._asked:
            self._take_over(self._asked.popleft())
        self._open_free()
        for camera_id, why in list(self._publisher.refused.items()):  # its thread adds to them
            if camera_id in self._waiting:
                self._set_aside[camera_id] = self._waiting.pop(camera_id), why
            if camera_id in self._readers:  # no event of it says so: nothing takes its events
                self._put_aside(camera_id, "refused", why)
        self._replace_hung()
        held = self._publisher.held
        whys = [why for _, why in self._set_aside.values()]
        whys += [held[camera_id] for camera_id in self._waiting if camera_id in held]
        if whys and not self._readers and self._waiting.keys() <= held.keys():
            raise SinkError(f"there is no camera left to watch: {whys[0]}")

    def failed(self, camera_id: str, error: Exception) -> None:
        """A source has failed; called in its thread."""
        if self._lossless:
            self.failure = error
            return
        log.error(
            "camera %s: internal error, not watching it any more: please report this traceback",
            camera_id,
            exc_info=error,
        )
        self.batcher.put(StreamDown(camera_id, None, "ended", "internal_error"))

    def stop(self, seconds: float) -> None:
        """Stop all sources, and wait at most ``seconds`` for their threads."""
        for reader in self._readers.values():
            reader.source.stop()
        self.batcher.close()
        deadline = time.monotonic() + seconds
        for reader in self._readers.values():
            reader.thread.join(max(deadline - time.monotonic(), 0))

    def _take_over(self, cameras: Sequence[Camera]) -> None:
        """Cameras that are already read with the same settings continue undisturbed."""
        wanted = {camera.camera_id: camera for camera in cameras}
        self._set_aside = {
            camera_id: (camera, why)
            for camera_id, (camera, why) in self._set_aside.items()
            if wanted.get(camera_id) == camera
        }
        for record in self._records:
            record.wanted = record.camera_id in wanted
            is_over = record.state == "ended" and record.last_item is None
            if is_over and record.camera_id not in {*wanted, *self._readers}:
                self._records.forget(record.camera_id)
        for camera_id in [name for name in self._readers if name not in wanted]:
            self._take_down(self._readers.pop(camera_id), "ended", "removed")
            log.info("camera %s: removed", camera_id)
        self._publisher.remove_cameras([name for name in self._waiting if name not in wanted])
        self._waiting = {name: wanted[name] for name in self._waiting if name in wanted}
        known = {*self._readers, *self._set_aside, *self._waiting}
        new = [name for name in wanted if name not in known]
        self._publisher.add_cameras(new)
        for camera_id, camera in wanted.items():
            self._records.of(camera_id).filter = camera.filter
            reader = self._readers.get(camera_id)
            if camera_id in new:
                self._waiting[camera_id] = camera
            elif reader is not None and reader.camera.source_settings == camera.source_settings:
                reader.camera = camera
            elif reader is not None:
                self._take_down(reader, "down", "reconfigured")
                log.info("camera %s: reconnecting with other settings", camera_id)
                self._readers[camera_id] = _Reader(camera, self)

    def _open_free(self) -> None:
        """Begin to read cameras that no other worker watches."""
        for camera_id in [name for name in self._waiting if self._publisher.may_watch(name)]:
            self._readers[camera_id] = _Reader(self._waiting.pop(camera_id), self)

    def _replace_hung(self) -> None:
        """Reconnect the cameras whose readers hang."""
        now = time.monotonic()
        for camera_id, reader in list(self._readers.items()):
            if not reader.hangs(now):
                continue
            hung = [thread for thread in self._hung.get(camera_id, []) if thread.is_alive()]
            self._hung[camera_id] = hung = [*hung, reader.thread]
            if len(hung) < MAX_HUNG_THREADS:
                log.error("camera %s: its reader hangs: connecting again", camera_id)
                self._take_down(reader, "down", "stall", "its reader hangs")
                self._readers[camera_id] = _Reader(reader.camera, self)
            else:
                what = f"{len(hung)} of its readers hang: restart this worker"
                log.error("camera %s: %s", camera_id, what)
                self._put_aside(camera_id, "stall", f"camera {camera_id}: {what}")

    def _put_aside(self, camera_id: str, reason: str, why: str) -> None:
        """Stop reading a camera for the rest of this run, unless its settings change."""
        reader = self._readers.pop(camera_id)
        self._set_aside[camera_id] = reader.camera, why
        self._take_down(reader, "ended", reason)

    def _take_down(self, reader: _Reader, state: Literal["down", "ended"], reason: str,
                   detail: str = "") -> None:  # fmt: skip
        """Abandon a reader, so that no batch waits for a frame of it."""
        reader.abandon()
        camera_id, epoch = reader.camera.camera_id, reader.source.current_epoch()
        last_item = StreamDown(camera_id, epoch, state, reason, detail)
        self._records.of(camera_id).last_item = last_item
        self.batcher.put(last_item)
