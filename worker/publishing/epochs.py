"""Epochs: the numbers of a camera's connections, each above all that its stream has seen.

An epoch is the time of the connect in milliseconds since 1970, or, where the clock is behind, one
more than the last. The last is known from the producer hash in Redis, the spool on disk and this
process, so that no server has to be up. Knows neither sources nor what a sink is beyond its epochs.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from worker.errors import CameraRefused, Fenced, SinkUnavailable, SpoolError
from worker.events import Event
from worker.publishing.spool import Spool

log = logging.getLogger(__name__)


class HoldsEpochs(Protocol):
    """A sink that knows the latest epoch of a camera."""

    def last_epoch(self, camera_id: str) -> int:
        """The latest epoch known of a camera; 0 if none is. Raises SinkError."""
        ...


class Epochs:
    """Names the connections of a run's cameras; callable from their threads."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._lock = threading.Lock()

    def learn(self, camera_ids: Iterable[str], sink: HoldsEpochs, spool: Spool) -> None:
        """Begin above what the spool and the sink know of these cameras, as far as they answer."""
        camera_ids = list(camera_ids)
        with contextlib.suppress(SpoolError):  # a full disk: the spool has reported it
            for camera_id in camera_ids:
                self.raise_to(camera_id, spool.last_epoch(camera_id))
        try:
            for camera_id in camera_ids:
                with contextlib.suppress(CameraRefused):  # reported when it is to be published
                    self.raise_to(camera_id, sink.last_epoch(camera_id))
        except SinkUnavailable as error:
            log.warning("events are spooled to disk until Redis is available: %s", error)

    def of(self, camera_id: str) -> Callable[[], int]:
        """A function that gives each new connection of the camera its epoch."""

        def next_epoch() -> int:
            with self._lock:
                now = round(time.time() * 1000)
                self._last[camera_id] = max(now, self._last.get(camera_id, 0) + 1)
                return self._last[camera_id]

        return next_epoch

    def raise_to(self, camera_id: str, epoch: int) -> None:
        """The camera's next epoch is above this one."""
        with self._lock:
            self._last[camera_id] = max(epoch, self._last.get(camera_id, epoch))


class PublishedEpochs:
    """The latest epoch of each camera among the events of one publisher, kept on disk, too."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._latest: dict[str, int] = {}
        self._on_disk: dict[str, int] = {}

    def submitted(self, events: Sequence[Event]) -> None:
        """Events were submitted."""
        self._latest.update((e.data.camera_id, e.data.epoch) for e in events)

    def are_later_than(self, camera_id: str, epoch: int) -> bool:
        """Whether this process's events of a camera, past or future, are of later epochs."""
        latest = self._latest.get(camera_id)
        return latest is None or epoch < latest

    def keep(self, events: Sequence[Event]) -> None:
        """Write new ones to disk, so that the next process begins above them without Redis."""
        epochs = {e.data.camera_id: e.data.epoch for e in events}
        new = dict(epochs.items() - self._on_disk.items())
        if not new:
            return
        self._on_disk |= new
        try:
            self._spool.note_epochs(new)
        except SpoolError as error:
            log.debug("cannot save epochs: %s", error)


def without_older(events: Sequence[Event], error: Fenced) -> list[Event]:
    """Drop events of earlier connections of a camera whose stream already has later ones.

    A process that died left them in the spool: published then, or made before another worker took
    the camera. This process is not fenced off by that.
    """
    left = [
        event
        for event in events
        if event.data.camera_id != error.camera_id or event.data.epoch > error.epoch
    ]
    log.warning(
        "camera %s: discarding %d events of an earlier run: its stream already has later ones",
        error.camera_id,
        len(events) - len(left),
    )
    return left
