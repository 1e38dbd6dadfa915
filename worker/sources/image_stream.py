"""Images over HTTP as a container: one answer with many, or one snapshot after another.

Takes what connects to a camera; gives packets, with the time of their arrival as pts, on streams
that PyAV decodes. FFmpeg's HTTP client reads; what it reads is cut into images here. Knows nothing
of URLs and decodes nothing.
"""

import errno
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from fractions import Fraction
from typing import Any

import av
from av.error import FFmpegError

from worker.sources.images import Image, ImageSplitter
from worker.sources.limits import Limits
from worker.sources.liveness import READ_GRACE_SECONDS
from worker.sources.opening import open_image
from worker.sources.reasons import ConnectionLost

TIME_BASE = Fraction(1, 90_000)
LONGEST_PREAMBLE_BYTES = 1 << 18
"""An answer without an image in its beginning is none of images."""
LONGEST_BLANK_BYTES = 4
"""Before a snapshot, from careless scripts. A part of a multipart stream has more before it."""
FROZEN_SECONDS = 30.0
"""After so long with the same snapshot, byte for byte, a camera counts as frozen: a sensor's noise
alone makes two pictures differ."""
FROZEN_POLLS = 3
"""At least, for a camera that is polled less often than every 10 s."""

Connect = Callable[[tuple[float, float]], AbstractContextManager[Any]]
"""Opens the answer of a camera as bytes, given its timeouts."""


Pause = Callable[[float, float], bool]
"""Waits for the first number of seconds, which are no silence of the camera, and returns whether to
go on. A sign of life of the reading thread: the next one comes within the second number."""


class NoImagesError(Exception):
    """The camera answers with something other than images."""


class ImageStream:
    """The images of one camera, from connecting to it to losing it."""

    start_time_realtime = None
    """Nobody states it."""

    def __init__(
        self,
        connect: Connect,
        limits: Limits,
        *,
        interval_seconds: float,
        silence_seconds: float,
        pause: Pause,
    ) -> None:
        """``interval_seconds``: between snapshots. ``silence_seconds``: maximum for one image."""
        self._connect = connect
        self._limits = limits
        self._interval_seconds = interval_seconds
        self._silence_seconds = silence_seconds
        self._pause = pause
        self._containers = ExitStack()
        self._streams: dict[str, Any] = {}
        self._answer: Generator[Image, None, None] | None = None
        self._first: Image | None = None
        self._started = time.monotonic()
        self.is_snapshot = False
        """Whether each image is fetched when it is due; known after the first one."""
        self.frozen: bytes | None = None
        """The snapshot that has not changed for too long."""

    def begin(self, open_seconds: float, frozen: bytes | None = None) -> None:
        """Connect, and read the first image.

        ``frozen``: the image that the camera was lost with. Raises NoImagesError, FFmpegError,
        OverLimit, and ConnectionLost if it is still the same.
        """
        self._answer = self._images((open_seconds, self._silence_seconds))
        self._first = next(self._answer, None)
        if self._first is None:
            raise NoImagesError
        if self._first.content == frozen:
            self.frozen = frozen
            raise ConnectionLost("stall", "its picture is still the same, byte for byte")
        self._stream_of(self._first)

    @property
    def streams(self) -> Any:
        """Those of the first image's container."""
        return self._container.streams

    @property
    def format(self) -> Any:
        """That of the first image's container."""
        return self._container.format

    @property
    def _container(self) -> Any:
        assert self._first is not None
        return self._stream_of(self._first).container

    def close(self) -> None:
        """Disconnect."""
        if self._answer is not None:
            self._answer.close()
        self._containers.close()

    def demux(self) -> Iterator[Any]:
        """A packet for each image. Raises FFmpegError, OverLimit, ConnectionLost."""
        for image in self._all_images():
            packet = av.Packet(image.content)
            packet.stream = self._stream_of(image)
            packet.time_base = TIME_BASE
            packet.pts = packet.dts = round((time.monotonic() - self._started) / TIME_BASE)
            packet.is_keyframe = True
            yield packet

    def _all_images(self) -> Iterator[Image]:
        assert self._first is not None
        assert self._answer is not None
        yield self._first
        if (second := next(self._answer, None)) is not None:
            yield second
            yield from self._answer
        elif self._first.bytes_before <= LONGEST_BLANK_BYTES:
            self.is_snapshot = True
            yield from self._snapshots(self._first)

    def _snapshots(self, last: Image) -> Iterator[Image]:
        """One image of each answer, when it is due, beginning with the second."""
        due = changed_at = self._started
        while True:
            due = max(due + self._interval_seconds, time.monotonic())
            if not self._pause(due - time.monotonic(), READ_GRACE_SECONDS):
                return
            with closing(self._images((self._silence_seconds, self._silence_seconds))) as answer:
                image = next(answer, None)
            if image is None:
                raise ConnectionLost("invalid_data", "its answer contains no whole picture")
            if image.content != last.content:
                changed_at = time.monotonic()
            same_seconds = time.monotonic() - changed_at
            if same_seconds >= max(FROZEN_SECONDS, FROZEN_POLLS * self._interval_seconds):
                self.frozen = image.content
                detail = f"its picture has been the same, byte for byte, for {same_seconds:.0f} s"
                raise ConnectionLost("stall", detail)
            last = image
            yield image

    def _images(self, timeout_seconds: tuple[float, float]) -> Generator[Image, None, None]:
        """The images of one answer, each as soon as it is whole."""
        splitter = ImageSplitter(self._limits)
        found = False
        self._pause(0.0, 2 * timeout_seconds[0] + READ_GRACE_SECONDS)
        with self._connect(timeout_seconds) as container:
            heard_at = image_at = time.monotonic()
            packets = container.demux()
            while self._pause(0.0, self._silence_seconds + READ_GRACE_SECONDS):
                try:
                    packet = next(packets, None)
                except FFmpegError as error:
                    # EIO is the end of an answer whose length is wrong or not stated; or a timeout.
                    silent = time.monotonic() - heard_at >= self._silence_seconds
                    if error.errno != errno.EIO or silent:
                        raise
                    return
                if packet is None or packet.size == 0:
                    return
                heard_at = time.monotonic()
                for image in splitter.feed(bytes(packet)):
                    found = True
                    yield image
                    heard_at = image_at = time.monotonic()
                if not found and splitter.bytes_before > LONGEST_PREAMBLE_BYTES:
                    return
                if time.monotonic() - image_at >= self._silence_seconds:
                    detail = f"no whole picture arrived for {self._silence_seconds:.0f} s"
                    raise ConnectionLost("stall", detail)

    def _stream_of(self, image: Image) -> Any:
        """A stream with a decoder for such images."""
        if image.kind not in self._streams:
            opened = open_image(image.content, image.kind, self._limits)
            container = self._containers.enter_context(opened)
            self._streams[image.kind] = container.streams.video[0]
        return self._streams[image.kind]
