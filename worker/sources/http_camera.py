"""HTTP cameras: whatever FFmpeg reads and, where its demuxers give up, images and snapshots.

Takes the URL of one camera; gives containers with packets. FFmpeg's ``mpjpeg`` demuxer insists on
correct multipart headers, which many cheap cameras do not send. Its ``mjpeg`` and ``jpeg_pipe``
hold each picture back until the next one begins, and probe for seconds, so what they would read is
read as images, too. FFmpeg comes first, so that a camera that it reads needs one connection only.
"""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import islice
from typing import Any

from av.error import ExitError, FFmpegError, InvalidDataError

from worker.sources.camera_pictures import ReaderThread
from worker.sources.image_stream import ImageStream, NoImagesError
from worker.sources.limits import Limits
from worker.sources.liveness import OPEN_SECONDS, READ_GRACE_SECONDS
from worker.sources.opening import FormatRefused, open_bytes, open_camera
from worker.sources.reasons import SILENCE_SECONDS

SNAPSHOTS_A_SECOND = 1.0
"""Of a camera without ``fps``. Each one is a connection, and in some cameras an encoder's start."""
PARTS_AHEAD = 2
LONGEST_AHEAD_SECONDS = 1.0
"""A picture that waited for the next one for longer is left out: it would be stale."""
READ_AS_IMAGES = ("jpeg_pipe", "mjpeg")
MULTIPART = "mpjpeg"


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
    def open(
        self,
        options: dict[str, str],
        reader: ReaderThread,
        *,
        timeout_seconds: tuple[float, float],
        allow_playlists: bool = False,
        gpu: int | None = None,
    ) -> Iterator[Any]:
        """A container, as from ``open_camera``. ``reader``: the thread that calls.

        Raises FFmpegError, OverLimit, FormatRefused, ConnectionLost.
        """
        with_ffmpeg = partial(
            open_camera, self._url, options, self._limits, timeout_seconds=timeout_seconds,
            allow_playlists=allow_playlists, gpu=gpu,
        )  # fmt: skip
        images = partial(
            ImageStream,
            partial(self._connect, options),
            self._limits,
            interval_seconds=self._interval_seconds,
            timeout_seconds=timeout_seconds,
            is_stopped=lambda: reader.is_stopped,
        )
        with ExitStack() as stack:
            yield self._open(with_ffmpeg, images, reader, stack)

    def _open(
        self,
        with_ffmpeg: Callable[[], AbstractContextManager[Any]],
        images: Callable[[], ImageStream],
        reader: ReaderThread,
        stack: ExitStack,
    ) -> Any:
        if self._images_first:
            try:
                return self._begin(images(), stack)
            except NoImagesError:
                self._images_first = False
        started = time.monotonic()
        refused: FFmpegError | FormatRefused = FormatRefused("no whole picture arrived")
        with ExitStack() as attempt:
            try:
                container = attempt.enter_context(with_ffmpeg())
                if container.format.name == MULTIPART:
                    container = _Multipart(container, self)
            except (FFmpegError, FormatRefused) as error:
                if not _may_be_images(error, time.monotonic() - started):
                    raise
                refused = error
            else:
                if container.format.name not in READ_AS_IMAGES:
                    stack.push(attempt.pop_all())
                    return container
        # Also if the camera refuses a second connection right after the first.
        self._images_first = not isinstance(refused, OSError)
        reader.expect_sign_within(2 * OPEN_SECONDS + READ_GRACE_SECONDS)
        try:
            begun = self._begin(images(), stack)
        except NoImagesError:
            self._images_first = False
            raise refused from None
        finally:
            del refused  # its traceback holds this frame, which would hold it: see Intake
        self._images_first = True
        return begun

    def _begin(self, images: ImageStream, stack: ExitStack) -> ImageStream:
        stack.callback(self._remember, images)
        stack.callback(images.close)
        images.begin(self._frozen)
        return images

    def _connect(self, options: dict[str, str], timeout_seconds: tuple[float, float]) -> Any:
        return open_bytes(self._url, options, self._limits, timeout_seconds=timeout_seconds)

    def _remember(self, images: ImageStream) -> None:
        self._frozen = images.frozen

    def read_images_next_time(self) -> None:
        """FFmpeg's demuxer gave up in the middle."""
        self._images_first = True


class _Multipart:
    """A container of FFmpeg's ``mpjpeg``, once it has read the header of a second part."""

    def __init__(self, container: Any, camera: HttpCamera) -> None:
        """Raises FormatRefused for what FFmpeg cannot read, or a single picture; FFmpegError."""
        self._container = container
        self._camera = camera
        self._packets = container.demux()
        self._ahead: list[Any] = []
        began = time.monotonic()
        try:
            self._ahead += islice(self._packets, PARTS_AHEAD)
        except InvalidDataError as error:
            raise FormatRefused("its multipart headers cannot be read") from error
        except FFmpegError as error:
            if not self._ahead or not _is_end(error):
                raise
        if not all(packet.size for packet in self._ahead) or len(self._ahead) < PARTS_AHEAD:
            raise FormatRefused("its only picture cannot be read")
        if time.monotonic() - began > LONGEST_AHEAD_SECONDS:
            del self._ahead[:-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def demux(self) -> Iterator[Any]:
        """The packets."""
        yield from self._ahead
        try:
            yield from self._packets
        except InvalidDataError:
            self._camera.read_images_next_time()
            raise


def _may_be_images(error: FFmpegError | FormatRefused, seconds: float) -> bool:
    """Whether bytes arrived that FFmpeg could make nothing of."""
    if isinstance(error, FormatRefused):
        return True
    if isinstance(error, InvalidDataError) or _is_end(error):
        return seconds < SILENCE_SECONDS  # FFmpeg's errors for silence, too
    return isinstance(error, ExitError) and seconds >= OPEN_SECONDS


def _is_end(error: FFmpegError) -> bool:
    """Whether an answer has ended that did not state its length, or a wrong one."""
    return error.errno == errno.EIO
