"""The decoded pictures of a camera, each with its arrival; or of a file that is played like one.

Takes an open container; gives pictures in presentation order. What decoding cannot keep up with
and what ``--fps`` does not need is not decoded. Raises ConnectionLost if a camera sends nothing
that can be decoded, or only what is late.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import av
from av.error import FFmpegError

from worker.sources.arrivals import Arrival, ArrivalClock
from worker.sources.image_stream import interrupting
from worker.sources.intake import READ_WAITED_SECONDS, Intake
from worker.sources.limits import Meter
from worker.sources.liveness import OPEN_SECONDS, READ_GRACE_SECONDS, WORK_SECONDS, Liveness
from worker.sources.opening import PLAYLISTS
from worker.sources.pacing import PlaylistPace
from worker.sources.presentation import PresentationOrder
from worker.sources.reasons import ConnectionLost
from worker.sources.sampling import Sampler
from worker.sources.streams import packets_of
from worker.sources.thinning import LATE_SECONDS, Thinner, ToDecode

TIMED_FORMATS = ("rtsp", "rtp", "mpegts", "flv", "live_flv", "srt")
"""Formats with the camera's own timestamps; of pictures over HTTP, FFmpeg guesses them."""
CATCH_UP_SECONDS = 3.0
"""Most time for the packets that FFmpeg has read to look at the streams, and that a server kept."""
RECONNECT_LAG_SECONDS = 2.0
"""Lag of packets on their arrival from which a new connection is the way to a picture of now."""
RECONNECT_AFTER_SECONDS = 2.0
"""How long it lasts by then: what was held up and arrives in a burst catches up by itself."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture, and when it arrived."""

    image: av.VideoFrame
    arrival: Arrival
    damaged: bool = False
    """Whether parts of it, or of a picture that it is made from, were lost: those show something
    older.
    """
    decode_seconds: float = 0.0
    """How long its packets took to decode, with those that gave no picture before it."""


@dataclass(frozen=True, slots=True)
class Late:
    """Pictures are late: some were dropped undecoded, or will be."""

    lag_seconds: float


class ReaderThread(Protocol):
    """The thread that a connection is read in."""

    @property
    def is_stopped(self) -> bool:
        """Whether reading is to end."""
        ...

    def expect_sign_within(self, seconds: float) -> None:
        """A sign of life, and how long the next one may take."""
        ...

    def wait(self, seconds: float) -> None:
        """Wait, or until it is stopped."""
        ...


class Decoding:
    """A video stream's decoder, and which arrival its pictures belong to."""

    def __init__(self, stream: Any, meter: Meter) -> None:
        # Frame threads would add a frame of delay each; slices do not.
        stream.thread_type = "SLICE"
        stream.thread_count = 1
        self._context = stream.codec_context
        self._meter = meter
        self._order = PresentationOrder()
        self._damaged = False
        """Whether something was lost since the last key frame."""
        self._seconds = 0.0
        """How long the packets took that have given no picture yet."""
        self.missing = 0
        """Packets that gave no picture, since this was last set to 0."""

    def skip_frame(self, what: str) -> None:
        """Leave out such pictures from now on."""
        if self._context.skip_frame != what:
            self._context.skip_frame = what

    def flush(self) -> int:
        """Forget the pictures that are held back, since they are older than a gap: how many."""
        self._context.flush_buffers()
        return self._order.flush()

    def decode(self, arrival: Arrival) -> list[Picture]:
        """The pictures that a packet completes; none for one that cannot be decoded."""
        if arrival.packet.size:
            self._order.sent(arrival)
        began = time.monotonic()
        try:
            images = arrival.packet.decode()
        except FFmpegError:
            self._damaged = True
            return []
        finally:
            self._seconds += time.monotonic() - began
        pictures = []
        for image in images:
            self._meter.frame(image.width, image.height)
            of_picture, missing = self._order.came_out(image.pts, self._context.reorder_depth)
            self.missing += missing
            arrived = of_picture or arrival
            is_hurt = image.is_corrupt or arrived.packet.is_corrupt
            self._damaged = is_hurt or (self._damaged and not image.key_frame)
            seconds, self._seconds = self._seconds, 0.0
            pictures.append(Picture(image, arrived, self._damaged, seconds))
        return pictures


def of_file(container: Any, stream: Any, meter: Meter) -> Iterator[Picture]:
    """The pictures of a file, which arrive when they are decoded."""
    decoding = Decoding(stream, meter)
    clock = ArrivalClock(timed=False)
    for packet in packets_of(container):
        if packet.stream is not stream:
            continue
        yield from decoding.decode(clock.date(packet, time.monotonic()))
    meter.check()


class CameraPictures:
    """The pictures of one connection to a camera."""

    def __init__(
        self,
        container: Any,
        stream: Any,
        sampler: Sampler,
        liveness: Liveness,
        meter: Meter,
        reader: ReaderThread,
        *,
        silence_seconds: float,
        trust_timestamps: bool,
        thread_name: str,
    ) -> None:
        """``silence_seconds``: how long a read may take. ``trust_timestamps``: whether they tell
        what is late; over HTTP, a file may come as fast as it is read.
        """
        timed = trust_timestamps and container.format.name in TIMED_FORMATS
        self._stream = stream
        self._liveness = liveness
        self._meter = meter
        self._thinner = Thinner(sampler)
        self._sampler = sampler
        self._decoding = Decoding(stream, meter)
        context = stream.codec_context
        self._clock = ArrivalClock(timed=timed, has_b_frames=lambda: context.reorder_depth > 0)
        self._reader = reader
        self._read_seconds = silence_seconds + READ_GRACE_SECONDS
        self._container = container
        self._pace = None
        packets = packets_of(container)
        if container.format.name in PLAYLISTS:
            self._pace = PlaylistPace(stream, is_stopped=lambda: reader.is_stopped)
            packets = self._pace.of(packets)
        self._intake = Intake(
            packets,
            self._date,
            thread_name,
            silence_seconds=silence_seconds,
            is_stopped=lambda: reader.is_stopped,
        )
        self._decoded_at = time.monotonic()
        self._arrives_late_since: float | None = None
        """By the monotonic clock; None while packets arrive in time."""
        self.has_reports = False
        """Whether the camera has sent an RTCP report."""
        self.dropped = 0
        """Pictures that lag left undecoded, since this was last set to 0."""

    @property
    def read_seconds(self) -> float:
        """How long the last read took."""
        return self._intake.read_seconds

    def __iter__(self) -> Iterator[Picture | Late]:
        """The pictures, and while some are dropped undecoded, Late."""
        try:
            yield from self._read()
        finally:
            self._count_what_waits()

    def _read(self) -> Iterator[Picture | Late]:
        with self._intake as intake, interrupting(self._container):
            self._reader.expect_sign_within(self._read_seconds)
            intake.wait_until_caught_up(CATCH_UP_SECONDS)
            for arrival, read_seconds in intake:  # of every stream: the limits count sound, too
                of_video = arrival.packet.stream_index == self._stream.index
                self._meter.count(arrival.packet.size)
                self._meter.check()
                self._liveness.packet(read_seconds, of_video=of_video)
                if of_video:
                    self._check_arrival(arrival, read_seconds)
                    yield from self._decoded(arrival)
                self._reader.expect_sign_within(self._read_seconds)
        self._meter.check()

    def _date(self, packet: Any, at: float) -> Arrival:
        if packet.stream_index != self._stream.index:
            return Arrival(packet, at)
        if self._pace is not None:  # to the moment, so that --fps chooses by pts
            at = self._pace.played_at
        return self._clock.date(packet, at)

    def _check_arrival(self, arrival: Arrival, read_seconds: float) -> None:
        self.has_reports |= arrival.sender_seconds is not None
        lag = arrival.lag_seconds(arrival.at)
        if lag <= RECONNECT_LAG_SECONDS or read_seconds < READ_WAITED_SECONDS:
            self._arrives_late_since = None
        elif self._arrives_late_since is None:
            self._arrives_late_since = arrival.at
        elif arrival.at > self._arrives_late_since + RECONNECT_AFTER_SECONDS:
            raise ConnectionLost("late", f"its pictures arrive {lag:.0f} s late")

    def _decoded(self, arrival: Arrival) -> Iterator[Picture | Late]:
        now = time.monotonic()
        if arrival.packet.size:
            chosen = self._thinner.take(arrival, arrival.captured_at, now - arrival.at)
            self._take_dropped()
        else:  # the end: no picture, but those that the decoder holds back
            chosen = ToDecode((arrival,))
        lag = arrival.lag_seconds(now)
        if lag > LATE_SECONDS or self._thinner.is_late:
            yield Late(lag)
        if not chosen.arrivals and self._thinner.is_late and now - self._decoded_at > OPEN_SECONDS:
            raise ConnectionLost("late", "decoding is too slow, and no key frame arrives")
        if chosen.gap:
            self._count_left_out(self._decoding.flush(), late=chosen.gap == "dropped")
        self._decoding.skip_frame(self._thinner.skip_frame)
        for packet in chosen.arrivals:
            # What is set up for the first picture, a GPU's decoder for example, takes its time.
            self._reader.expect_sign_within(WORK_SECONDS if self._liveness.was_up else OPEN_SECONDS)
            pictures = self._decoding.decode(packet)
            if self._thinner.skip_frame == "DEFAULT":
                self._liveness.decoded(len(pictures))
            self._count_missing()
            for picture in pictures:
                self._decoded_at = handed_on_at = time.monotonic()
                yield picture
                self._liveness.handed_on(time.monotonic() - handed_on_at)

    def _take_dropped(self) -> None:
        self.dropped += self._thinner.dropped
        self._thinner.dropped = 0

    def _count_missing(self) -> None:
        """Count what the decoder left out, as it was asked to."""
        late = self._thinner.is_late
        if late or self._thinner.skip_frame != "DEFAULT":
            self._count_left_out(self._decoding.missing, late=late)
        self._decoding.missing = 0

    def _count_left_out(self, pictures: int, *, late: bool) -> None:
        if late:
            self.dropped += pictures
        else:
            self._sampler.skip(pictures)

    def _count_what_waits(self) -> None:
        """Count what the end of the connection leaves undecoded."""
        self._thinner.end()
        self._take_dropped()
        left = [arrival.packet for arrival in self._intake.take_left()]
        index = self._stream.index
        self.dropped += sum(each.stream_index == index and each.size > 0 for each in left)
