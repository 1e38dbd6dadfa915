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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import av
from av.error import FFmpegError

from worker.frames import Frame, SourceItem, StreamDown, StreamUp
from worker.sources.capture_clock import CaptureClock
from worker.sources.conversion import make_converter
from worker.sources.limits import DEFAULT_LIMITS, Limits, Meter, OverLimit
from worker.sources.liveness import OPEN_SECONDS, READ_GRACE_SECONDS, WORK_SECONDS, Liveness
from worker.sources.opening import FormatRefused, open_camera, open_recording
from worker.sources.orientation import Orientations
from worker.sources.picture import seconds_of, time_base_of, upright_size
from worker.sources.reasons import SILENCE_SECONDS, ConnectionLost, is_rtsp, reason_of
from worker.sources.reconnecting import CONNECTS, Backoff
from worker.sources.sampling import Sampler
from worker.sources.streams import passed_over, video_of

log = logging.getLogger(__name__)

PLAYLIST_SILENCE_SECONDS = 30.0
"""A playlist (HLS) delivers the pictures of whole segments at once, seconds apart."""
SHORTEST_LOOP_SECONDS = 0.5
"""Between the rounds of a looped file, which may be one picture."""
LONGEST_PACE_SECONDS = 10.0
"""A longer gap between the pictures of a file is a jump of its clock, not a pause."""
DEFAULT_RATE = 25
Transport = Literal["auto", "tcp", "udp"]
RTSP_TRANSPORTS: dict[Transport, dict[str, str]] = {
    # UDP only for a camera that refuses TCP (461), and only from that camera.
    "auto": {"rtsp_transport": "tcp+udp", "rtsp_flags": "prefer_tcp+filter_src"},
    "tcp": {"rtsp_transport": "tcp"},
    "udp": {"rtsp_transport": "udp", "rtsp_flags": "filter_src"},
}
"""FFmpeg's options for each."""


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
        gpu: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
        allow_playlists: bool = False,
        transport: Transport = "auto",
    ) -> None:
        """``image_size``: (height, width) of the images; None: each picture's own.

        ``next_epoch`` names each connection.
        ``as_planes``: frames carry YuvImages in full size. ``gpu``: CUDA device that decodes.
        ``transport`` of RTSP: ``auto`` is TCP, and UDP for a camera that refuses TCP.

        A ``url`` without ``://`` is a file: it is played at its own speed, once or, with ``loop``,
        for ever.
        """
        self.camera_id = camera_id
        self._url = url
        self._image_size = image_size
        self._as_planes = as_planes
        self._gpu = gpu
        self._limits = limits
        self._allow_playlists = allow_playlists
        self._next_epoch = next_epoch
        self._fps = fps
        self._loop = loop
        self._is_file = "://" not in url
        self._transport = transport
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

    def stop(self) -> None:
        """End the iteration at the next frame or wait."""
        self._stop.set()

    def __iter__(self) -> Iterator[SourceItem]:
        """Frames between StreamUp and StreamDown, for every connection, until ``stop``."""
        backoff = Backoff()
        last_reason = None
        while not self._stop.is_set():
            if not self._is_file:
                self.wait(CONNECTS.seconds())
            started = time.monotonic()
            connection = _Connection(self)
            yield from connection.frames()
            if self._stop.is_set():
                return
            if self._is_file and connection.reason in ("end_of_file", "over_limit"):
                if self._loop and connection.was_up and connection.reason == "end_of_file":
                    self.wait(max(0.0, started + SHORTEST_LOOP_SECONDS - time.monotonic()))
                    continue
                yield self._down(connection, "ended")
                return
            ended = time.monotonic()
            if connection.was_up or connection.reason != last_reason:
                yield self._down(connection, "down")
            last_reason = connection.reason
            wait_seconds = backoff.seconds(
                connection.reason,
                attempt_seconds=ended - started,
                up_seconds=0.0 if connection.up_at is None else ended - connection.up_at,
            )
            self.wait(wait_seconds)

    def _down(self, connection: "_Connection", state: Literal["down", "ended"]) -> StreamDown:
        level = logging.INFO if state == "ended" else logging.WARNING
        log.log(level, "camera %s: %s (%s)", self.camera_id, state, connection.reason)
        return StreamDown(
            self.camera_id,
            self.current_epoch(),
            state,
            connection.reason,
            connection.detail,
            frames=connection.frame_index,
        )


class _Connection:
    """One attempt to read a camera, from opening it to losing it."""

    def __init__(self, source: LiveSource) -> None:
        self._source = source
        self._sampler = Sampler(fps=source._fps)
        self._converter = make_converter(source._image_size, as_planes=source._as_planes)
        self._orientations = Orientations()
        self._capture_clock = CaptureClock()
        self._playlist = source._allow_playlists and not is_rtsp(source._url)
        self._silence_seconds = PLAYLIST_SILENCE_SECONDS if self._playlist else SILENCE_SECONDS
        self._liveness = Liveness(self._silence_seconds)
        self._opened = False
        self.epoch: int | None = None
        self.up_at: float | None = None
        """By the monotonic clock; None before the first picture."""
        self.frame_index = 0
        self.reason = "closed"
        self.detail = ""
        self._meter = Meter(source._limits)

    @property
    def was_up(self) -> bool:
        """Whether a picture has arrived."""
        return self.up_at is not None

    def frames(self) -> Iterator[Frame | StreamUp]:
        """StreamUp at the first frame, then frames; ``reason`` says afterwards why they ended."""
        source = self._source
        source.expect_sign_within(2 * OPEN_SECONDS + READ_GRACE_SECONDS)
        try:
            with self._open() as container:
                self._opened = True
                stream = video_of(container)
                if stream is None:
                    self.reason = "no_video"
                    self.detail = "there is no video stream that can be decoded"
                    return
                if not source._is_file:
                    self._liveness.opened(looked_into=stream.codec_context.width > 0)
                # Frame threads would add a frame of delay each; slices do not.
                stream.thread_type = "SLICE"
                stream.thread_count = 1
                rate = stream.average_rate or stream.guessed_rate or DEFAULT_RATE
                pace = _Pace(source.wait, 1 / float(rate)) if source._is_file else None
                for picture in self._decodable(container, stream):
                    if pace is not None:
                        pace.wait_for(picture)
                    if source._stop.is_set():
                        return
                    if not self.was_up:
                        if line := passed_over(container, stream):
                            log.info("camera %s: %s", source.camera_id, line)
                        self.up_at = time.monotonic()
                        source._epoch = self.epoch = source._next_epoch()
                        log.info("camera %s: up", source.camera_id)
                        yield StreamUp(source.camera_id, self.epoch)
                    frame = self._frame(container, picture)
                    self.frame_index += 1
                    if frame is not None:
                        yield frame
            whole = source._is_file and not self._meter.read_error
            self.reason = "end_of_file" if whole else "closed"
        except OverLimit as error:
            self.reason, self.detail = "over_limit", str(error)
        except FormatRefused as error:
            self.reason, self.detail = "invalid_data", str(error)
        except ConnectionLost as error:
            self.reason, self.detail = error.reason, error.detail
        except (FFmpegError, OSError) as error:
            silent_seconds = 0.0 if source._is_file else self._liveness.silent_seconds
            self.reason, self.detail = reason_of(
                error, source._url, opened=self._opened, silent_seconds=silent_seconds
            )
        except Exception:  # a bug must not end the camera for good
            log.exception(
                "camera %s: internal error, reconnecting: please report this traceback",
                source.camera_id,
            )
            self.reason, self.detail = "internal_error", ""

    def _open(self) -> Any:
        source = self._source
        if source._is_file:
            return open_recording(Path(source._url), source._limits, self._meter, source._gpu)
        # Not "nobuffer": it discards what was read to find the streams, including the first key
        # frame, and then nothing can be decoded until the next one.
        # Skipping the measurement of the frame rate saves the 20 frames that FFmpeg reads for it: a
        # 10 fps camera is up after 0.6 s instead of 2.8, and without a backlog of that length.
        options = {"fflags": "discardcorrupt", "fpsprobesize": "0"}
        if is_rtsp(source._url):
            # Without the sound that some cameras announce and do not send: FFmpeg would wait 5 s.
            options |= RTSP_TRANSPORTS[source._transport]
            options |= {"allowed_media_types": "video", "timeout": microseconds(SILENCE_SECONDS)}
        else:
            options |= {"rw_timeout": microseconds(SILENCE_SECONDS)}
        # FFmpeg's own timeouts are per read of the socket. A camera that sends reports and no
        # pictures, or its answer byte by byte, is only caught by PyAV's, which cover the whole.
        return open_camera(
            source._url,
            options,
            source._limits,
            timeout_seconds=(OPEN_SECONDS, self._silence_seconds),
            allow_playlists=source._allow_playlists,
            gpu=source._gpu,
        )

    def _decodable(self, container: Any, stream: Any) -> Iterator[av.VideoFrame]:
        """The pictures that can be decoded. Raises ConnectionLost if a camera sends none."""
        live = not self._source._is_file
        for packet in self._packets(container):  # of every stream: sound alone is no frame either
            of_video = packet.stream is stream  # the index of the last, empty one is always 0
            if live:  # bytes of a file are counted as they are read
                self._meter.count(packet.size)
                self._meter.check()
                self._liveness.packet(of_video=of_video)
            if not of_video:
                continue
            try:
                pictures = packet.decode()
            except FFmpegError:
                pictures = []
            if live:
                self._liveness.decoded(len(pictures))
            for picture in pictures:
                self._meter.frame(picture.width, picture.height)
                handed_on_at = time.monotonic()
                yield picture
                self._liveness.handed_on(time.monotonic() - handed_on_at)
        self._meter.check()

    def _packets(self, container: Any) -> Iterator[Any]:
        """The packets of all streams, with a sign of life before and after each read."""
        read_seconds = self._silence_seconds + READ_GRACE_SECONDS
        self._source.expect_sign_within(read_seconds)
        for packet in container.demux():
            # What is set up for the first picture, a GPU's decoder for example, takes its time.
            self._source.expect_sign_within(WORK_SECONDS if self.was_up else OPEN_SECONDS)
            yield packet
            self._source.expect_sign_within(read_seconds)

    def _frame(self, container: Any, picture: av.VideoFrame) -> Frame | None:
        """The frame to yield, or None if it is skipped by choice."""
        assert self.epoch is not None
        arrived_at = datetime.now(UTC)
        orientation = self._orientations.of(picture)
        seconds = seconds_of(picture)
        # By our clock: the timestamps of HTTP cameras (MJPEG) are FFmpeg's guess of 25 a second.
        sampled_at = seconds if self._source._is_file else time.monotonic()
        if not self._sampler.accepts(self.frame_index, sampled_at):
            return None
        captured_at, clock = self._capture_clock.time_of(
            container.start_time_realtime, seconds, arrived_at
        )
        height, width = upright_size(picture, orientation)
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
            image=self._converter.convert(picture, orientation),
            skipped=self._sampler.take_skipped(),
        )


class _Pace:
    """Delays the pictures of a file until they are due."""

    def __init__(self, wait: Callable[[float], object], interval_seconds: float) -> None:
        """``interval_seconds``: between pictures that have no pts (raw H.264)."""
        self._wait = wait
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
        self._wait(max(self._due - now, 0))


def microseconds(seconds: float) -> str:
    """Format seconds as FFmpeg's options expect: whole microseconds."""
    return str(round(seconds * 1e6))
