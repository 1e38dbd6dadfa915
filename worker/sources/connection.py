"""One connection to a camera: from opening it to losing it.

Takes what a camera's settings say, gives StreamUp, frames in presentation order, and the reason why
they ended. Latency first: pictures that decoding cannot keep up with are dropped and counted, and
none is handed on late without saying so. No URL ever leaves this module.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from av.error import FFmpegError

from worker.frames import Frame, SourceItem, StreamDown, StreamLate, StreamUp
from worker.sources.arrivals import JUMP_BACK_REORDERED_SECONDS, Arrival
from worker.sources.camera_pictures import (
    CATCH_UP_SECONDS,
    CameraPictures,
    Late,
    Picture,
    ReaderThread,
    of_file,
)
from worker.sources.capture_clock import CaptureClock
from worker.sources.conversion import make_converter
from worker.sources.http_camera import HttpCamera
from worker.sources.image_stream import ImageStream
from worker.sources.limits import DEFAULT_LIMITS, Limits, Meter, OverLimit
from worker.sources.liveness import OPEN_SECONDS, READ_GRACE_SECONDS, Liveness
from worker.sources.opening import FormatRefused, open_camera, open_recording
from worker.sources.orientation import Orientation, Orientations
from worker.sources.pacing import Pace
from worker.sources.picture import time_base_of, upright_size
from worker.sources.reasons import SILENCE_SECONDS, ConnectionLost, is_http, is_rtsp, reason_of
from worker.sources.sampling import MediaTime, Sampler
from worker.sources.snapshots import SnapshotMaker
from worker.sources.streams import passed_over, rate_of, video_of
from worker.sources.thinning import IN_TIME_SECONDS

log = logging.getLogger(__name__)

PLAYLIST_SILENCE_SECONDS = 30.0
"""A playlist (HLS) delivers the pictures of whole segments at once, seconds apart."""
STALE_SECONDS = 2.0
"""No picture is handed on that is older than this."""
LATE_INTERVAL_SECONDS = 1.0
"""How often a camera that is late says so."""
Transport = Literal["auto", "tcp", "udp"]
RTSP_TRANSPORTS: dict[Transport, dict[str, str]] = {
    # UDP only for a camera that refuses TCP (461), and only from that camera.
    "auto": {"rtsp_transport": "tcp+udp", "rtsp_flags": "prefer_tcp+filter_src"},
    "tcp": {"rtsp_transport": "tcp"},
    "udp": {"rtsp_transport": "udp", "rtsp_flags": "filter_src"},
}
"""FFmpeg's options for each."""


@dataclass(frozen=True)
class CameraSettings:
    """How to read one camera."""

    url: str
    """Without ``://`` it is a file, played at its own speed."""
    image_size: tuple[int, int] | None = None
    """(height, width) of the images; None: each picture's own."""
    fps: float | None = None
    as_planes: bool = False
    """Frames carry YuvImages in full size."""
    antialias: bool = True
    """Whether pictures are filtered when they are scaled down."""
    gpu: int | None = None
    """CUDA device that decodes."""
    limits: Limits = DEFAULT_LIMITS
    allow_playlists: bool = False
    transport: Transport = "auto"

    @property
    def is_file(self) -> bool:
        """Whether it is a file played like a camera."""
        return "://" not in self.url


class Connection:
    """One attempt to read a camera."""

    def __init__(
        self,
        camera_id: str,
        settings: CameraSettings,
        reader: ReaderThread,
        next_epoch: Callable[[], int],
        *,
        trust_timestamps: bool = True,
        http: HttpCamera | None = None,
        left_out: tuple[int, int] = (0, 0),
        snapshots: SnapshotMaker | None = None,
    ) -> None:
        """``http``: what opens the camera, if it is read with HTTP. ``snapshots``: None: no such.

        ``left_out``: frames skipped and dropped before, to be counted with the first item.
        """
        self._http = http
        self._snapshots = snapshots
        self._images: ImageStream | None = None
        """Of an HTTP camera that FFmpeg does not read by itself."""
        self._camera_id = camera_id
        self._settings = settings
        self._reader = reader
        self._next_epoch = next_epoch
        self._trust_timestamps = trust_timestamps
        self._sampler = Sampler(fps=settings.fps)
        skipped, self._dropped = left_out  # since the last item that counted them
        self._sampler.skip(skipped)
        self._orientations = Orientations()
        self._converter = make_converter(
            settings.image_size, as_planes=settings.as_planes, antialias=settings.antialias
        )
        self._capture_clock = CaptureClock()
        playlist = settings.allow_playlists and not is_rtsp(settings.url)
        self._silence_seconds = PLAYLIST_SILENCE_SECONDS if playlist else SILENCE_SECONDS
        self._liveness = Liveness(self._silence_seconds)
        self._meter = Meter(settings.limits)
        self._pictures: CameraPictures | None = None
        self._opened = False
        self._last: Arrival | None = None
        """Of the last picture."""
        self._captured_at = 0.0
        """Of the last picture, by the monotonic clock."""
        self._late_at = 0.0
        """When it last said that it is late, by the monotonic clock."""
        self._first_decoded_at: float | None = None
        """By the monotonic clock."""
        self.epoch: int | None = None
        self.up_at: float | None = None
        """By the monotonic clock; None before the first picture."""
        self.frame_index = 0
        self.reason = "closed"
        self.detail = ""

    @property
    def was_up(self) -> bool:
        """Whether a picture has arrived."""
        return self.up_at is not None

    @property
    def timestamps_mislead(self) -> bool:
        """Whether only its timestamps say that it was late, and no RTCP report."""
        pictures = self._pictures
        return self.reason == "late" and pictures is not None and not pictures.has_reports

    def items(self) -> Iterator[SourceItem]:
        """StreamUp at the first frame, then frames; ``reason`` says afterwards why they ended.

        StreamDown only where the timestamps jump back, with StreamUp after it.
        """
        is_file = self._settings.is_file
        self._reader.expect_sign_within(2 * OPEN_SECONDS + READ_GRACE_SECONDS)
        try:
            with self._open() as container:
                self._opened = True
                stream = video_of(container)
                if stream is None:
                    self.reason = "no_video"
                    self.detail = "there is no video stream that can be decoded"
                    return
                if line := passed_over(container, stream):
                    log.info("camera %s: %s", self._camera_id, line)
                yield from (
                    self._of_file(container, stream)
                    if is_file
                    else self._of_camera(container, stream)
                )
            whole = is_file and not self._meter.read_error
            self.reason = "end_of_file" if whole else "closed"
        except OverLimit as error:
            self.reason, self.detail = "over_limit", str(error)
        except FormatRefused as error:
            self.reason, self.detail = "invalid_data", str(error)
        except ConnectionLost as error:
            self.reason, self.detail = error.reason, error.detail
        except (FFmpegError, OSError) as error:
            self.reason, self.detail = reason_of(
                error,
                self._settings.url,
                opened=self._opened,
                silent_seconds=0.0 if is_file else self._silent_seconds(),
            )
        except Exception:  # a bug must not end the camera for good
            log.exception(
                "camera %s: internal error, reconnecting: please report this traceback",
                self._camera_id,
            )
            self.reason, self.detail = "internal_error", ""

    def ended(
        self,
        state: Literal["down", "ended"],
        reason: str,
        detail: str = "",
        epoch: int | None = None,
    ) -> StreamDown:
        """The end of its epoch, or of one that never was up."""
        skipped, dropped = self.take_left_out()
        return StreamDown(
            self._camera_id,
            self.epoch or epoch,
            state,
            reason,
            detail,
            frames=self.frame_index,
            skipped=skipped,
            dropped=dropped,
        )

    def take_left_out(self) -> tuple[int, int]:
        """Frames skipped and dropped since the last item that counted them."""
        return self._sampler.take_skipped(), self._take_dropped()

    def _silent_seconds(self) -> float:
        if self._images is not None:
            return self._images.silent_seconds
        reading = self._pictures.read_seconds if self._pictures is not None else 0.0
        return self._liveness.silent_seconds(reading)

    def _open(self) -> Any:
        settings = self._settings
        if settings.is_file:
            return open_recording(Path(settings.url), settings.limits, self._meter, settings.gpu)
        # Not "nobuffer": it discards what was read to find the streams, including the first key
        # frame, and then nothing can be decoded until the next one.
        # Skipping the measurement of the frame rate saves the 20 frames that FFmpeg reads for it: a
        # 10 fps camera is up after 0.6 s instead of 2.8, and without a backlog of that length.
        options = {"fpsprobesize": "0"}
        if is_rtsp(settings.url):
            # Without the sound that some cameras announce and do not send: FFmpeg would wait 5 s.
            options |= RTSP_TRANSPORTS[settings.transport]
            options |= {"allowed_media_types": "video", "timeout": microseconds(SILENCE_SECONDS)}
        else:
            options |= {"rw_timeout": microseconds(SILENCE_SECONDS)}
        if self._http is not None:
            opening = partial(self._http.open, options, self._reader)
        else:
            opening = partial(open_camera, settings.url, options, settings.limits)
        # FFmpeg's own timeouts are per read of the socket. A camera that sends reports and no
        # pictures, or its answer byte by byte, is only caught by PyAV's, which cover the whole.
        return opening(
            timeout_seconds=(OPEN_SECONDS, self._silence_seconds),
            allow_playlists=settings.allow_playlists,
            gpu=settings.gpu,
        )

    def _of_file(self, container: Any, stream: Any) -> Iterator[SourceItem]:
        interval_seconds = float(1 / rate_of(stream))
        pace = Pace(self._reader.wait, interval_seconds)
        media_time = MediaTime(interval_seconds)
        for picture in of_file(container, stream, self._meter):
            seconds = media_time.of(picture.arrival.seconds)
            pace.wait_for(seconds)
            if self._reader.is_stopped:
                return
            due = replace(picture.arrival, at=pace.played_at)  # it was decoded before that
            yield from self._handed_on(replace(picture, arrival=due), seconds)

    def _of_camera(self, container: Any, stream: Any) -> Iterator[SourceItem]:
        if isinstance(container, ImageStream):
            self._images = container
            self._silence_seconds = container.longest_read_seconds
            self._liveness.allow_silence(self._silence_seconds)
        self._liveness.opened(looked_into=stream.codec_context.width > 0)
        self._pictures = pictures = CameraPictures(
            container,
            stream,
            self._sampler,
            self._liveness,
            self._meter,
            self._reader,
            silence_seconds=self._silence_seconds,
            trust_timestamps=self._trust_timestamps and not is_http(self._settings.url),
            thread_name=f"camera {self._camera_id}",
        )
        try:
            for item in pictures:
                if self._reader.is_stopped:
                    return
                self._count_dropped(pictures)
                if isinstance(item, Late):
                    yield from self._late(item.lag_seconds)
                else:
                    # A packet that is faster than all before makes those older, in hindsight.
                    self._captured_at = max(self._captured_at, item.arrival.captured_at)
                    yield from self._handed_on(item, self._captured_at)
        finally:
            self._count_dropped(pictures)

    def _count_dropped(self, pictures: CameraPictures) -> None:
        if self.was_up:  # what was late before is of the time before
            self._dropped += pictures.dropped
        pictures.dropped = 0

    def _handed_on(self, picture: Picture, seconds: float | None) -> Iterator[SourceItem]:
        """The picture as a frame, unless it is left out; ``seconds`` for ``--fps``."""
        arrival, image = picture.arrival, picture.image
        orientation = self._orientations.of(image)
        now = time.monotonic()
        lag = arrival.lag_seconds(now)
        if not self.was_up:
            if self._may_be_from_before(lag, now):
                return
            self.up_at = now
            log.info("camera %s: up", self._camera_id)
            yield self._up()
        elif jumped := self._jumped_back(arrival):
            log.warning("camera %s: %s jumped back: a new epoch begins", self._camera_id, jumped)
            yield self.ended("down", "timestamps")
            self._last = None
            self._capture_clock = CaptureClock()
            yield self._up()
        frame_index = self.frame_index
        self.frame_index += 1
        if not self._in_order(arrival):
            self._dropped += 1
            return
        self._last = arrival
        # A file is sampled as in a replay.
        key_frame = bool(image.key_frame) and not self._settings.is_file
        if not self._sampler.accepts(frame_index, seconds, key_frame=key_frame):
            return
        if lag > STALE_SECONDS:
            self._dropped += 1
            yield from self._late(lag)
            return
        yield self._frame(picture, frame_index, orientation)

    def _may_be_from_before(self, lag_seconds: float, now: float) -> bool:
        """Whether a picture may be one that the server kept, with those of now still to come.

        Those that are late after that are late for another reason, of which the camera must not
        stay down: a busy machine, or B-frames at a few pictures per second.
        """
        if self._first_decoded_at is None:
            self._first_decoded_at = now
        is_early = now < self._first_decoded_at + CATCH_UP_SECONDS
        return is_early and lag_seconds > IN_TIME_SECONDS

    def _up(self) -> StreamUp:
        self.epoch = self._next_epoch()
        self.frame_index = 0
        return StreamUp(self._camera_id, self.epoch)

    def _late(self, lag_seconds: float) -> Iterator[StreamLate]:
        now = time.monotonic()
        if self.epoch is None or now < self._late_at + LATE_INTERVAL_SECONDS:
            return
        self._late_at = now
        skipped, dropped = self.take_left_out()
        yield StreamLate(self._camera_id, self.epoch, lag_seconds, skipped, dropped)

    def _jumped_back(self, arrival: Arrival) -> str:
        """What jumped back, so that events of the same epoch would be out of order; "" if nothing.

        A clock: this host's, or that of a camera which is not believed any more.
        """
        if self._capture_clock.runs_back(arrival, datetime.now(UTC), time.monotonic()):
            return "the clock for its times"
        last = self._last
        if last is None or last.seconds is None or arrival.seconds is None:
            return ""
        back = last.seconds - arrival.seconds
        jumped = back > JUMP_BACK_REORDERED_SECONDS or (back > 0 and last.run != arrival.run)
        return "its timestamps" if jumped else ""

    def _in_order(self, arrival: Arrival) -> bool:
        """Whether its pts is not below the last one's: a damaged stream may repeat pictures."""
        if self._last is None or self._last.seconds is None or arrival.seconds is None:
            return True
        return arrival.seconds >= self._last.seconds

    def _take_dropped(self) -> int:
        dropped, self._dropped = self._dropped, 0
        return dropped

    def _frame(self, picture: Picture, frame_index: int, orientation: Orientation) -> Frame:
        assert self.epoch is not None
        image, arrival = picture.image, picture.arrival
        captured_at, clock = self._capture_clock.time_of(
            arrival, datetime.now(UTC), time.monotonic()
        )
        height, width = upright_size(image, orientation)
        began = time.monotonic()
        converted = self._converter.convert(image, orientation)
        seconds = time.monotonic() - began
        frame = Frame(
            camera_id=self._camera_id,
            epoch=self.epoch,
            frame_index=frame_index,
            pts=arrival.pts,
            time_base=time_base_of(image),
            captured_at=captured_at,
            clock=clock,
            width=width,
            height=height,
            image=converted,
            captured_monotonic=arrival.captured_at,
            damaged=picture.damaged,
            skipped=self._sampler.take_skipped(),
            dropped=self._take_dropped(),
            decode_seconds=picture.decode_seconds + seconds,
            read_at=time.monotonic(),
        )
        maker = self._snapshots
        snapshot = None if maker is None else maker.of(frame, image, orientation)
        if snapshot is None:
            return frame
        return replace(frame, snapshot=snapshot, read_at=time.monotonic())


def microseconds(seconds: float) -> str:
    """Format seconds as FFmpeg's options expect: whole microseconds."""
    return str(round(seconds * 1e6))
