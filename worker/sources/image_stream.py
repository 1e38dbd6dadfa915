"""Images over HTTP as a container: one answer with many, or one snapshot after another.

Takes what connects to a camera; gives packets, with the time of their arrival as pts, on streams
that PyAV decodes. FFmpeg's HTTP client reads; what it reads is cut into images here. Knows nothing
of URLs and decodes nothing.
"""

import errno
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from fractions import Fraction
from typing import Any

import av
from av.error import FFmpegError

from worker.sources.images import Image, ImageSplitter
from worker.sources.limits import Limits
from worker.sources.opening import open_image
from worker.sources.pacing import wait_until
from worker.sources.reasons import ConnectionLost

TIME_BASE = Fraction(1, 90_000)
LONGEST_PREAMBLE_BYTES = 1 << 18
"""An answer without an image in its beginning is none of images."""
FROZEN_SECONDS = 30.0
"""After so long with the same snapshot, byte for byte, a camera counts as frozen: a sensor's noise
alone makes two pictures differ."""
FROZEN_POLLS = 3
"""At least, for a camera that is polled less often than every 10 s."""

Connect = Callable[[tuple[float, float]], AbstractContextManager[Any]]
"""Opens the answer of a camera as bytes, given its timeouts."""


class NoImagesError(Exception):
    """The camera answers with something other than images."""


class ImageStream:
    """The images of one camera, from connecting to it to losing it."""

    def __init__(
        self,
        connect: Connect,
        limits: Limits,
        *,
        interval_seconds: float,
        timeout_seconds: tuple[float, float],
        is_stopped: Callable[[], bool],
    ) -> None:
        """``interval_seconds``: between snapshots.

        ``timeout_seconds``: for each step of opening the first connection, and for each image.
        """
        self._connect = connect
        self._limits = limits
        self._interval_seconds = interval_seconds
        self._open_seconds, self._silence_seconds = timeout_seconds
        self._is_stopped = is_stopped
        self._interrupted = False
        self._heard_at = time.monotonic()
        self._containers = ExitStack()
        self._streams: dict[str, Any] = {}
        self._answer: Generator[Image, None, None] | None = None
        self._first: Image | None = None
        self._started = time.monotonic()
        self.frozen: bytes | None = None
        """The snapshot that has not changed for too long."""

    def begin(self, frozen: bytes | None = None) -> None:
        """Connect, and read the first image.

        ``frozen``: the image that the camera was lost with. Raises NoImagesError, FFmpegError,
        OverLimit, and ConnectionLost if it is still the same.
        """
        self._answer = self._images((self._open_seconds, self._silence_seconds))
        self._first = next(self._answer, None)
        if self._first is None:
            raise NoImagesError
        if self._first.content == frozen:
            self.frozen = frozen
            raise ConnectionLost("stall", "its picture is still the same, byte for byte")
        self._stream_of(self._first)

    @property
    def longest_read_seconds(self) -> float:
        """How long the next packet may take: it enforces the limit for an image itself."""
        return self._interval_seconds + 3 * self._silence_seconds

    @property
    def silent_seconds(self) -> float:
        """Since something arrived, or it connected; waiting for the next turn does not count."""
        return time.monotonic() - self._heard_at

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

    def interrupt(self) -> None:
        """End ``demux`` soon; from any thread."""
        self._interrupted = True

    def close(self) -> None:
        """Disconnect. Not while another thread is in ``demux``."""
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
        handed_on_at = time.monotonic()
        if (second := next(self._answer, None)) is not None:
            yield second
            yield from self._answer
        else:  # an answer of one image is a snapshot, whatever surrounds it
            yield from self._snapshots(self._first, handed_on_at)

    def _snapshots(self, last: Image, since: float) -> Iterator[Image]:
        """One image of each answer, when it is due, beginning with the second.

        ``since``: when the first was handed on, by the monotonic clock. Counted from the start of
        the connection, which may take its time, the second would come too early for ``--fps``.
        """
        due = changed_at = since
        while True:
            due = max(due + self._interval_seconds, time.monotonic())
            if not wait_until(due, self._is_over):
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
        self._heard_at = time.monotonic()
        with self._connect(timeout_seconds) as container:
            self._heard_at = image_at = time.monotonic()
            packets = container.demux()
            while not self._is_over():
                try:
                    packet = next(packets, None)
                except FFmpegError as error:
                    # EIO is the end of an answer whose length is wrong or not stated; or a timeout.
                    if error.errno != errno.EIO or self.silent_seconds >= self._silence_seconds:
                        raise
                    return
                if packet is None or packet.size == 0:
                    return
                self._heard_at = time.monotonic()
                for image in splitter.feed(bytes(packet)):
                    found = True
                    yield image
                    self._heard_at = image_at = time.monotonic()
                if not found and splitter.bytes_before > LONGEST_PREAMBLE_BYTES:
                    return
                if time.monotonic() - image_at >= self._silence_seconds:
                    detail = f"no whole picture arrived for {self._silence_seconds:.0f} s"
                    raise ConnectionLost("stall", detail)

    def _is_over(self) -> bool:
        return self._interrupted or self._is_stopped()

    def _stream_of(self, image: Image) -> Any:
        """A stream with a decoder for such images."""
        if image.kind not in self._streams:
            opened = open_image(image.content, image.kind, self._limits)
            container = self._containers.enter_context(opened)
            self._streams[image.kind] = container.streams.video[0]
        return self._streams[image.kind]


@contextmanager
def interrupting(container: Any) -> Iterator[None]:
    """Interrupts images that another thread reads when the block is left."""
    try:
        yield
    finally:
        if isinstance(container, ImageStream):
            container.interrupt()
