"""Cameras: frames as they come, reconnecting for as long as the worker runs.

Takes RTSP (over TCP), HTTP, and files played at their own speed like a camera. Latency first:
nothing is buffered here. A failure becomes a StreamDown with a reason code, never an exception,
and no URL ever leaves this module.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import av
from av.error import (
    ConnectionRefusedError as RefusedError,
    ExitError,
    FFmpegError,
    FileNotFoundError as MissingFileError,
    HTTPForbiddenError,
    HTTPNotFoundError,
    HTTPUnauthorizedError,
    InvalidDataError,
    TimeoutError as TimedOutError,
)

from worker.frames import Clock, Frame, SourceItem, StreamDown, StreamUp
from worker.sources.picture import (
    hardware_decoder,
    make_converter,
    seconds_of,
    time_base_of,
    upright_size,
)
from worker.sources.sampling import Sampler

log = logging.getLogger(__name__)

STALL_SECONDS = 5.0
"""Silence after which a connection counts as lost."""
FIRST_BACKOFF_SECONDS = 0.5
LAST_BACKOFF_SECONDS = 15.0
MAX_DOUBLINGS = 10
SHORTEST_LOOP_SECONDS = 0.5
"""Between the rounds of a looped file, which may be one picture."""
DAMAGED_IN_A_ROW = 100
"""Packets without a picture after which a connection counts as lost."""
LONGEST_PACE_SECONDS = 10.0
"""A longer gap between the pictures of a file is a jump of its clock, not a pause."""
DEFAULT_RATE = 25
LOGIN_BACKOFF_SECONDS = 30.0
"""After a refused login: cameras lock accounts that are tried too often."""

REASONS: tuple[tuple[type[Exception], str], ...] = (
    (RefusedError, "refused"),
    (HTTPUnauthorizedError, "unauthorized"),
    (HTTPForbiddenError, "unauthorized"),
    (HTTPNotFoundError, "not_found"),
    (MissingFileError, "not_found"),
    (TimedOutError, "timeout"),
    (ExitError, "timeout"),
    (InvalidDataError, "invalid_data"),
)


class LiveSource:
    """One camera."""

    def __init__(
        self,
        camera_id: str,
        url: str,
        image_size: tuple[int, int],
        next_epoch: Callable[[], int],
        *,
        fps: float | None = None,
        loop: bool = False,
        as_planes: bool = False,
        gpu: int | None = None,
    ) -> None:
        """``image_size``: (height, width) of the images. ``next_epoch`` names each connection.

        ``as_planes``: frames carry YuvImages in full size. ``gpu``: CUDA device that decodes.

        A ``url`` without ``://`` is a file: it is played at its own speed, once or, with ``loop``,
        for ever.
        """
        self.camera_id = camera_id
        self._url = url
        self._image_size = image_size
        self._as_planes = as_planes
        self._gpu = gpu
        self._next_epoch = next_epoch
        self._fps = fps
        self._loop = loop
        self._is_file = "://" not in url
        self._epoch: int | None = None
        self._stop = threading.Event()

    def stop(self) -> None:
        """End the iteration at the next frame or wait."""
        self._stop.set()

    def __iter__(self) -> Iterator[SourceItem]:
        """Frames between StreamUp and StreamDown, for every connection, until ``stop``."""
        failures = 0
        last_reason = None
        while not self._stop.is_set():
            started = time.monotonic()
            connection = _Connection(self)
            yield from connection.frames()
            if self._stop.is_set():
                return
            if self._is_file and connection.reason == "end_of_file":
                if self._loop and connection.was_up:
                    self._stop.wait(max(0.0, started + SHORTEST_LOOP_SECONDS - time.monotonic()))
                    continue
                yield self._down(connection, "ended")
                return
            if connection.was_up:
                failures = 0
            if connection.was_up or connection.reason != last_reason:
                yield self._down(connection, "down")
            last_reason = connection.reason
            failures += 1
            self._wait(connection.reason, failures)

    def _down(self, connection: "_Connection", state: Any) -> StreamDown:
        if self._epoch is None:  # never up so far: the reason needs an epoch all the same
            self._epoch = self._next_epoch()
        level = logging.INFO if state == "ended" else logging.WARNING
        log.log(level, "camera %s: %s (%s)", self.camera_id, state, connection.reason)
        return StreamDown(
            self.camera_id,
            self._epoch,
            state,
            connection.reason,
            connection.detail,
            frames=connection.frame_index,
        )

    def _wait(self, reason: str, failures: int) -> None:
        """Jittered exponential back-off, so that cameras behind one switch do not come at once."""
        longest = LOGIN_BACKOFF_SECONDS if reason == "unauthorized" else longest_backoff(failures)
        self._stop.wait(random.uniform(longest / 2, longest))


def longest_backoff(failures: int) -> float:
    """Seconds to wait at most after so many failures in a row, doubled each time up to a limit."""
    doublings = min(failures - 1, MAX_DOUBLINGS)  # a camera may be dead for months
    return min(FIRST_BACKOFF_SECONDS * float(2**doublings), LAST_BACKOFF_SECONDS)


class _Connection:
    """One attempt to read a camera, from opening it to losing it."""

    def __init__(self, source: LiveSource) -> None:
        self._source = source
        self._sampler = Sampler(fps=source._fps)
        self._converter = make_converter(source._image_size, as_planes=source._as_planes)
        self.epoch: int | None = None
        self.was_up = False
        self.frame_index = 0
        self.reason = "closed"
        self.detail = ""

    def frames(self) -> Iterator[Frame | StreamUp]:
        """StreamUp at the first frame, then frames; ``reason`` says afterwards why no more come."""
        source = self._source
        try:
            with self._open() as container:
                if not container.streams.video:
                    self.reason, self.detail = "no_video", "there is no video stream"
                    return
                stream = container.streams.video[0]
                # Frame threads would add a frame of delay each; slices do not.
                stream.thread_type = "SLICE"
                stream.thread_count = 1
                rate = stream.average_rate or stream.guessed_rate or DEFAULT_RATE
                pace = _Pace(source._stop, 1 / float(rate)) if source._is_file else None
                for picture in _decodable(container, stream):
                    if pace is not None:
                        pace.wait_for(picture)
                    if source._stop.is_set():
                        return
                    if not self.was_up:
                        self.was_up = True
                        source._epoch = self.epoch = source._next_epoch()
                        log.info("camera %s: up", source.camera_id)
                        yield StreamUp(source.camera_id, self.epoch)
                    frame = self._frame(container, picture)
                    self.frame_index += 1
                    if frame is not None:
                        yield frame
            self.reason = "end_of_file" if source._is_file else "closed"
        except FFmpegError as error:
            self.reason = next((code for kind, code in REASONS if isinstance(error, kind)), "error")
            if self.was_up and self.reason == "timeout":
                self.reason = "stall"
            self.detail = error.strerror or ""  # str(error) would hold the URL
        except Exception:  # a bug must not take the camera out of the run for good
            log.exception("camera %s: its reader failed", source.camera_id)
            self.reason, self.detail = "internal_error", ""

    def _open(self) -> Any:
        source = self._source
        if source._is_file:
            path = f"file:{source._url}"
            return av.open(path, metadata_errors="ignore", hwaccel=hardware_decoder(source._gpu))
        timeout = str(round(STALL_SECONDS * 1e6))
        # Not "nobuffer": it throws away what was read to find the streams, the first key frame
        # among it, and then nothing can be decoded until the next one.
        # Not measuring the frame rate first saves the 20 frames that FFmpeg reads for it: a 10 fps
        # camera is up after 0.6 s instead of 2.8, and without a backlog of as long.
        options = {"fflags": "discardcorrupt", "fpsprobesize": "0"}
        if source._url.startswith(("rtsp://", "rtsps://")):
            options |= {"rtsp_transport": "tcp", "timeout": timeout}
        else:
            options |= {"rw_timeout": timeout}
        return av.open(
            source._url,
            options=options,
            metadata_errors="ignore",
            hwaccel=hardware_decoder(source._gpu),
        )

    def _frame(self, container: Any, picture: av.VideoFrame) -> Frame | None:
        """The frame to hand on, or None if it is skipped by choice."""
        assert self.epoch is not None
        arrived_at = datetime.now(UTC)
        seconds = seconds_of(picture)
        # By our clock: the timestamps of HTTP cameras (MJPEG) are FFmpeg's guess of 25 a second.
        sampled_at = seconds if self._source._is_file else time.monotonic()
        if not self._sampler.accepts(self.frame_index, sampled_at):
            return None
        captured_at, clock = _capture_time(container, seconds, arrived_at)
        height, width = upright_size(picture)
        return Frame(
            camera_id=self._source.camera_id,
            epoch=self.epoch,
            frame_index=self.frame_index,
            pts=picture.pts,
            time_base=time_base_of(picture),
            captured_at=captured_at,
            clock=clock,
            width=width,
            height=height,
            image=self._converter.convert(picture),
            skipped=self._sampler.take_skipped(),
        )


def _decodable(container: Any, stream: Any) -> Iterator[av.VideoFrame]:
    """The pictures that can be decoded; raises once ``DAMAGED_IN_A_ROW`` packets gave none."""
    damaged = 0
    for packet in container.demux(stream):
        try:
            pictures = packet.decode()
        except FFmpegError:
            damaged += 1
            if damaged >= DAMAGED_IN_A_ROW:
                raise
            continue
        for picture in pictures:
            damaged = 0
            yield picture


class _Pace:
    """Holds the pictures of a file back until their time has come."""

    def __init__(self, stop: threading.Event, interval_seconds: float) -> None:
        """``interval_seconds`` stands between pictures that have no pts (raw H.264)."""
        self._stop = stop
        self._interval_seconds = interval_seconds
        self._zero: float | None = None
        self._due = 0.0

    def wait_for(self, picture: av.VideoFrame) -> None:
        now = time.monotonic()
        seconds = seconds_of(picture)
        if seconds is None:
            self._due = max(self._due + self._interval_seconds, now)
        else:
            if self._zero is None or abs(self._zero + seconds - now) > LONGEST_PACE_SECONDS:
                self._zero = now - seconds
            self._due = self._zero + seconds
        self._stop.wait(max(self._due - now, 0))


def _capture_time(
    container: Any, pts_seconds: float | None, arrived_at: datetime
) -> tuple[datetime, Clock]:
    """The sender's wall clock where RTCP gives it (the time of pts 0), else our own."""
    zero = container.start_time_realtime
    if zero is None or zero <= 0 or pts_seconds is None:
        return arrived_at, "arrival"
    return datetime.fromtimestamp(zero / 1e6, UTC) + timedelta(seconds=pts_seconds), "rtcp"
