"""Cameras: frames as they arrive, reconnecting for as long as the worker runs.

Takes RTSP (over TCP, or UDP if a camera refuses TCP), HTTP, and files played at their own speed
like a camera. Latency first: nothing is buffered here. A failure becomes a StreamDown with a
reason code, never an exception, and no URL ever leaves this module. Whatever a camera does or
fails to do, it is up, or its connection ends within seconds and the next one is tried.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal

from worker.frames import SourceItem, StreamDown, StreamUp
from worker.sources.connection import CameraSettings, Connection, Transport
from worker.sources.http_camera import HttpCamera
from worker.sources.limits import DEFAULT_LIMITS, Limits
from worker.sources.liveness import WORK_SECONDS
from worker.sources.reasons import is_http
from worker.sources.reconnecting import CONNECTS, Backoff
from worker.sources.snapshots import SnapshotMaker, SnapshotSettings

log = logging.getLogger(__name__)

SHORTEST_LOOP_SECONDS = 0.5
"""Between the rounds of a looped file, which may be one picture."""
MAX_MISLED = 2
"""Connections in a row that were late by their timestamps alone, after which those do not count:
cameras exist that stamp 25 frames a second and send 15."""
STEADY_SECONDS = 60.0
"""A connection that lasted this long was not misled."""


class LiveSource:
    """One camera."""

    def __init__(
        self,
        camera_id: str,
        url: str,
        image_size: tuple[int, int] | None,
        next_epoch: Callable[[], int],
        *,
        fps: float | None = None,
        loop: bool = False,
        as_planes: bool = False,
        antialias: bool = True,
        gpu: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
        allow_playlists: bool = False,
        transport: Transport = "auto",
        snapshots: SnapshotSettings | None = None,
    ) -> None:
        """``image_size``: (height, width) of the images; None: each picture's own.

        ``next_epoch`` names each connection.
        ``as_planes``: frames carry YuvImages in full size. ``gpu``: CUDA device that decodes.
        ``transport`` of RTSP: ``auto`` is TCP, and UDP for a camera that refuses TCP.
        ``snapshots``: which to add to frames; None: none.

        A ``url`` without ``://`` is a file: it is played at its own speed, once or, with ``loop``,
        for ever.
        """
        self.camera_id = camera_id
        self._settings = CameraSettings(
            url,
            image_size,
            fps,
            as_planes,
            antialias,
            gpu,
            limits,
            allow_playlists,
            transport,
        )
        self._http = HttpCamera(url, limits, fps) if is_http(url) else None
        self._snapshots = None if snapshots is None else SnapshotMaker(snapshots, fps=fps)
        self._next_epoch = next_epoch
        self._loop = loop
        self._misled = 0
        self._left_out = 0, 0
        """Frames skipped and dropped at the end of a looped file's last round."""
        self._epoch: int | None = None
        self._stop = threading.Event()
        self.due_at = math.inf
        """When the reading thread gives its next sign of life at the latest."""

    def current_epoch(self) -> int:
        """The epoch of the latest connection, named now if there was none."""
        if self._epoch is None:  # never up so far: a reason needs an epoch all the same
            self._epoch = self._next_epoch()
        return self._epoch

    def expect_sign_within(self, seconds: float) -> None:
        """A sign of life of the reading thread, and how long the next one may take."""
        self.due_at = time.monotonic() + seconds

    def wait(self, seconds: float) -> None:
        """Wait in the reading thread, or until ``stop``."""
        self.expect_sign_within(seconds + WORK_SECONDS)
        self._stop.wait(seconds)

    @property
    def is_stopped(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End the iteration at the next frame or wait."""
        self._stop.set()

    def __iter__(self) -> Iterator[SourceItem]:
        """Frames between StreamUp and StreamDown, for every connection, until ``stop``."""
        backoff = Backoff()
        last_reason = None
        while not self._stop.is_set():
            is_file = self._settings.is_file
            if not is_file:
                self.wait(CONNECTS.seconds())
            started = time.monotonic()
            connection = self._connection()
            for item in connection.items():
                if isinstance(item, StreamUp):
                    self._epoch = item.epoch
                yield item
            if self._stop.is_set():
                return
            if is_file and connection.reason in ("end_of_file", "over_limit"):
                if self._loop and connection.was_up and connection.reason == "end_of_file":
                    self._left_out = connection.take_left_out()
                    self.wait(max(0.0, started + SHORTEST_LOOP_SECONDS - time.monotonic()))
                    continue
                yield self._down(connection, "ended")
                return
            ended = time.monotonic()
            if connection.was_up or connection.reason != last_reason:
                yield self._down(connection, "down")
            last_reason = connection.reason
            self._learn_from(connection, ended)
            wait_seconds = backoff.seconds(
                connection.reason,
                attempt_seconds=ended - started,
                up_seconds=0.0 if connection.up_at is None else ended - connection.up_at,
            )
            self.wait(wait_seconds)

    def _connection(self) -> Connection:
        left_out, self._left_out = self._left_out, (0, 0)
        return Connection(
            self.camera_id,
            self._settings,
            self,
            self._next_epoch,
            trust_timestamps=self._misled < MAX_MISLED,
            http=self._http,
            left_out=left_out,
            snapshots=self._snapshots,
        )

    def _learn_from(self, connection: Connection, ended: float) -> None:
        if connection.timestamps_mislead:
            self._misled += 1
            if self._misled == MAX_MISLED:
                log.warning(
                    "camera %s: its timestamps are too slow, twice in a row, and it sends no RTCP "
                    "reports: what is late on its way cannot be told from them any more",
                    self.camera_id,
                )
        elif self._misled < MAX_MISLED and ended - (connection.up_at or ended) > STEADY_SECONDS:
            self._misled = 0

    def _down(self, connection: Connection, state: Literal["down", "ended"]) -> StreamDown:
        level = logging.INFO if state == "ended" else logging.WARNING
        log.log(level, "camera %s: %s (%s)", self.camera_id, state, connection.reason)
        return connection.ended(state, connection.reason, connection.detail, self.current_epoch())
