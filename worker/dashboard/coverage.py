"""When cameras were watched: read once from their streams, and kept up by the events that arrive.

The feed's thread adds events, requests read: a lock is between them. After a gap in what the feed
has read, all is read again, since a hole in the numbers would look like lost events.
"""

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from worker.coverage import Coverage
from worker.dashboard.queries import Queries
from worker.events import Event
from worker.keys import Keys

READ_SECONDS = 1.0
"""After so long a request begins to read no further stream: what is missing is asked for again."""
MARGIN_SECONDS = 3600.0
"""Kept before what was asked for: a page asks for a day that moves."""


@dataclass
class _Camera:
    """What is known of one camera, from ``start`` on."""

    start: float
    coverage: Coverage = field(default_factory=Coverage)
    is_read: bool = False
    arrived: list[Event] = field(default_factory=list)
    """While its stream was being read."""


class CoverageStore:
    """The coverage of the cameras that were asked for."""

    def __init__(self, queries: Queries, keys: Keys) -> None:
        self._queries = queries
        self._keys = keys
        self._cameras: dict[str, _Camera] = {}
        self._lock = threading.Lock()
        self._reading = asyncio.Lock()

    def add(self, camera_id: str, event: Event) -> None:
        """An event has arrived; from the feed's thread."""
        if event.data.camera_id != camera_id:
            return
        with self._lock:
            camera = self._cameras.get(camera_id)
            if camera is None:
                return
            if camera.is_read:
                camera.coverage.add(event)
            else:
                camera.arrived.append(event)

    def forget(self, camera_id: str | None = None) -> None:
        """A camera is gone; or, without one, events may have been missed. From any thread."""
        with self._lock:
            if camera_id is None:
                self._cameras.clear()
            else:
                self._cameras.pop(camera_id, None)

    async def of(
        self, camera_ids: Sequence[str], start: float, end: float
    ) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
        """The intervals of each camera as the API shows them, and the cameras still to be read.

        Raises SinkError.
        """
        deadline = time.monotonic() + READ_SECONDS
        for camera_id in camera_ids:
            if self._knows(camera_id, start):
                continue
            async with self._reading:
                if time.monotonic() < deadline and not self._knows(camera_id, start):
                    await self._read(camera_id, start)
        found = {}
        with self._lock:
            for camera_id in camera_ids:
                camera = self._cameras.get(camera_id)
                if camera is not None and camera.is_read and camera.start <= start:
                    found[camera_id] = _shown(camera.coverage, camera_id, start, end)
                    camera.start = max(camera.start, start - MARGIN_SECONDS)
                    camera.coverage.forget_before(_datetime(camera.start))
        return found, [name for name in camera_ids if name not in found]

    def _knows(self, camera_id: str, start: float) -> bool:
        with self._lock:
            camera = self._cameras.get(camera_id)
            return camera is not None and camera.is_read and camera.start <= start

    async def _read(self, camera_id: str, start: float) -> None:
        camera = _Camera(start)
        with self._lock:
            self._cameras[camera_id] = camera
        try:
            await self._queries.run(
                lambda client: camera.coverage.read(
                    client, self._keys, [camera_id], _datetime(start)
                )
            )
        except BaseException:
            self.forget(camera_id)
            raise
        with self._lock:
            for event in camera.arrived:
                camera.coverage.add(event)
            camera.arrived.clear()
            camera.is_read = True


def _shown(coverage: Coverage, camera_id: str, start: float, end: float) -> list[dict[str, Any]]:
    found = coverage.of(camera_id, _datetime(start), _datetime(end))
    return [interval.as_dict() for interval in found]


def _datetime(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
