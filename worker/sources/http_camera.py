"""HTTP cameras: whatever FFmpeg reads and, where its demuxers give up, images and snapshots.

Takes the URL of one camera; gives containers with packets. FFmpeg's ``mpjpeg`` demuxer insists on
correct multipart headers, which many cheap cameras do not send. Its ``mjpeg`` and ``jpeg_pipe``
hold each picture back until the next one begins, and probe for seconds, so what they would read is
read as images, too. FFmpeg comes first, so that a camera that it reads needs one connection only.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from av.error import ExitError, FFmpegError, InvalidDataError

from worker.sources.image_stream import ImageStream, NoImagesError, Pause
from worker.sources.limits import Limits
from worker.sources.liveness import OPEN_SECONDS
from worker.sources.opening import FormatRefused, open_bytes, open_camera, scheme_of
from worker.sources.reasons import SILENCE_SECONDS

SNAPSHOTS_A_SECOND = 1.0
"""Of a camera without ``fps``. Each one is a connection, and in some cameras an encoder's start."""
PARTS_AHEAD = 2
READ_AS_IMAGES = ("jpeg_pipe", "mjpeg")
MULTIPART = "mpjpeg"


def is_http(url: str) -> bool:
    """Whether a URL is read with HTTP."""
    return scheme_of(url) in ("http", "https")


@dataclass(frozen=True)
class Opening:
    """How to open a connection."""

    options: dict[str, str]
    """FFmpeg's."""
    timeout_seconds: tuple[float, float]
    """For each of the two steps of opening, and for each packet."""
    pause: Pause
    allow_playlists: bool = False
    gpu: int | None = None


class HttpCamera:
    """One camera, over all of its connections."""

    def __init__(self, url: str, limits: Limits, fps: float | None) -> None:
        """``fps``: how often to fetch a snapshot; None: once a second."""
        self._url = url
        self._limits = limits
        self._interval_seconds = 1 / (fps or SNAPSHOTS_A_SECOND)
        self._images_first = False
        """Whether FFmpeg's demuxers gave up on the last connection."""
        self._frozen: bytes | None = None

    @contextmanager
    def open(self, how: Opening) -> Iterator[Any]:
        """A container. Raises FFmpegError, OverLimit, FormatRefused, ConnectionLost."""
        with ExitStack() as stack:
            yield self._open(how, stack)

    def _open(self, how: Opening, stack: ExitStack) -> Any:
        if self._images_first:
            try:
                return self._open_images(how, stack)
            except NoImagesError:
                self._images_first = False
        started = time.monotonic()
        refused: FFmpegError | FormatRefused = FormatRefused("no whole picture arrived")
        with ExitStack() as attempt:
            try:
                container = self._open_with_ffmpeg(how, attempt)
            except (FFmpegError, FormatRefused) as error:
                if not _may_be_images(error, time.monotonic() - started):
                    raise
                refused = error
            else:
                if container.format.name not in READ_AS_IMAGES:
                    stack.push(attempt.pop_all())
                    return container
        self._images_first = True
        try:
            return self._open_images(how, stack)
        except NoImagesError:
            self._images_first = False
            raise refused from None

    def _open_with_ffmpeg(self, how: Opening, stack: ExitStack) -> Any:
        container = stack.enter_context(
            open_camera(
                self._url,
                how.options,
                self._limits,
                timeout_seconds=how.timeout_seconds,
                allow_playlists=how.allow_playlists,
                gpu=how.gpu,
            )
        )
        return _Multipart(container, self) if container.format.name == MULTIPART else container

    def _open_images(self, how: Opening, stack: ExitStack) -> ImageStream:
        open_seconds, silence_seconds = how.timeout_seconds
        connect = partial(self._connect, how)
        images = ImageStream(
            connect,
            self._limits,
            interval_seconds=self._interval_seconds,
            silence_seconds=silence_seconds,
            pause=how.pause,
        )
        stack.callback(self._remember, images)
        stack.callback(images.close)
        images.begin(open_seconds, self._frozen)
        return images

    def _connect(self, how: Opening, timeout_seconds: tuple[float, float]) -> Any:
        return open_bytes(self._url, how.options, self._limits, timeout_seconds=timeout_seconds)

    def _remember(self, images: ImageStream) -> None:
        self._frozen = images.frozen

    def read_images_next_time(self) -> None:
        """FFmpeg's demuxer gave up in the middle."""
        self._images_first = True


class _Multipart:
    """A container of FFmpeg's ``mpjpeg``, once it has read the header of a second part."""

    def __init__(self, container: Any, camera: HttpCamera) -> None:
        """Raises FFmpegError if it reads none, or for headers or a length that FFmpeg refuses."""
        self._container = container
        self._camera = camera
        self._packets = container.demux()
        self._ahead: list[Any] = []
        self._error: FFmpegError | None = None
        try:
            self._ahead += islice(self._packets, PARTS_AHEAD)
        except FFmpegError as error:
            if isinstance(error, InvalidDataError) or not self._ahead:
                raise
            self._error = error  # what was read before it comes first

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def demux(self) -> Iterator[Any]:
        """The packets."""
        yield from self._ahead
        if self._error is not None:
            raise self._error
        try:
            yield from self._packets
        except InvalidDataError:
            self._camera.read_images_next_time()
            raise


def _may_be_images(error: FFmpegError | FormatRefused, seconds: float) -> bool:
    """Whether bytes arrived that FFmpeg could make nothing of."""
    if isinstance(error, FormatRefused | InvalidDataError):
        return seconds < SILENCE_SECONDS  # FFmpeg's error for silence, too
    return isinstance(error, ExitError) and seconds >= OPEN_SECONDS
