"""Opens recordings and cameras with access to what they need, and nothing else.

Takes a path or a URL and the limits; gives PyAV's container. A container or playlist can reference
other files and hosts (HLS, DASH, concat, SDP, data references): a recording is passed to FFmpeg as
bytes and can open nothing at all; a camera can open the network protocols of its own URL, never a
file. Knows nothing of frames.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any, Literal

import av
from av.codec.hwaccel import HWAccel
from av.error import ArgumentError, MemoryError as NoMemoryError

from worker.errors import SourceError
from worker.sources.limits import Limits, Meter

BUFFER_BYTES = 1 << 16
INVALID_SEEK = -22
"""EINVAL, as FFmpeg's I/O callbacks return it."""

RECORDING_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,h261,h263,h264,hevc,vvc,obu,av1,ivf,m4v,vc1,"
    "dirac,mjpeg,mpjpeg,jpeg_pipe,asf,flv,ogg,mxf,gxf,nut,dv,dhav,nsv,wtv,rm,gif,yuv4mpegpipe"
)
"""Containers and raw streams that contain their pictures themselves."""
RAW_FORMAT = "data"
"""FFmpeg's demuxer that returns bytes as they arrive."""
IMAGE_FORMATS = {"jpeg": "jpeg_pipe", "png": "png_pipe"}
CAMERA_FORMATS = f"{RECORDING_FORMATS},rtsp,rtp,live_flv"
PLAYLISTS = ("hls", "dash")
PLAYLIST_FORMATS = f"{CAMERA_FORMATS},{','.join(PLAYLISTS)},aac,ac3,mp3,webvtt"

HTTP = "http,https,httpproxy,tcp,tls"
PROTOCOLS = {
    "rtsp": "rtsp,tcp,rtp,udp",
    "rtsps": "rtsp,rtsps,tcp,tls",
    "http": HTTP,
    "https": HTTP,
    "rtmp": "rtmp,tcp",
    "rtmps": "rtmps,rtmp,tcp,tls",
    "srt": "srt,udp",
    "rtp": "rtp,udp",
    "udp": "udp",
    "tcp": "tcp",
}
"""What FFmpeg may open for a URL, by its scheme."""
DECRYPTION = "crypto"
"""For encrypted HLS."""


class FormatRefused(SourceError):
    """A source is in a format that FFmpeg could read but is not allowed to."""


def hardware_decoder(gpu: int | None) -> HWAccel | None:
    """A hardware accelerator that decodes on a GPU and leaves the pictures there; None for None.

    Codecs that the GPU does not support are decoded on the CPU.
    """
    return None if gpu is None else HWAccel("cuda", device=str(gpu), is_hw_owned=True)


def camera_options(url: str, limits: Limits, *, allow_playlists: bool = False) -> dict[str, str]:
    """FFmpeg's options for a camera: what it may open, and how large it may be.

    Playlists make FFmpeg connect to the hosts in them, so they are read only if allowed.
    """
    protocols = PROTOCOLS.get(scheme_of(url), "none")
    formats = CAMERA_FORMATS
    if allow_playlists:
        protocols, formats = f"{protocols},{DECRYPTION}", PLAYLIST_FORMATS
    return limits.container_options() | {
        "protocol_whitelist": protocols,
        "format_whitelist": formats,
    }


def scheme_of(url: str) -> str:
    """The scheme of a URL, in lower case."""
    return url.partition("://")[0].lower()


def _as_ffmpeg_reads(url: str) -> str:
    """The URL with its scheme in lower case: FFmpeg knows no other, RFC 3986 treats them alike."""
    _, separator, rest = url.partition("://")
    return scheme_of(url) + separator + rest


@contextmanager
def open_camera(
    url: str,
    options: dict[str, str],
    limits: Limits,
    *,
    timeout_seconds: tuple[float, float],
    allow_playlists: bool = False,
    gpu: int | None = None,
) -> Iterator[Any]:
    """A camera's container, opened with ``options``.

    ``timeout_seconds``: for each of the two steps of opening, and for each packet. Raises
    FFmpegError, OverLimit, FormatRefused.
    """
    safe = camera_options(url, limits, allow_playlists=allow_playlists)
    url = _as_ffmpeg_reads(url)
    with _opened(url, options | safe, limits, gpu, timeout_seconds) as container:
        yield container


@contextmanager
def open_bytes(
    url: str, options: dict[str, str], limits: Limits, *, timeout_seconds: tuple[float, float]
) -> Iterator[Any]:
    """A camera's bytes as they arrive, in packets: one stream, which cannot be decoded.

    Opens what ``open_camera`` would. Raises FFmpegError.
    """
    raw = {"format_whitelist": RAW_FORMAT, "raw_packet_size": str(BUFFER_BYTES)}
    safe = camera_options(url, limits) | raw
    url = _as_ffmpeg_reads(url)
    with _opened(url, options | safe, limits, None, timeout_seconds, RAW_FORMAT) as container:
        yield container


@contextmanager
def open_image(content: bytes, kind: Literal["jpeg", "png"], limits: Limits) -> Iterator[Any]:
    """The container of one image. Raises FFmpegError, OverLimit."""
    image_format = IMAGE_FORMATS[kind]
    options = limits.container_options() | {
        "protocol_whitelist": "none",
        "format_whitelist": image_format,
    }
    with _opened(BytesIO(content), options, limits, None, None, image_format) as container:
        yield container


@contextmanager
def open_recording(
    path: Path, limits: Limits, meter: Meter, gpu: int | None = None
) -> Iterator[Any]:
    """A file's container; ``meter`` counts what is read.

    Raises OSError, FFmpegError, OverLimit, FormatRefused.
    """
    options = limits.container_options() | {
        "protocol_whitelist": "none",
        "format_whitelist": RECORDING_FORMATS,
    }
    with path.open("rb", buffering=0) as file, ExitStack() as stack:
        source = _MeteredFile(path, file, meter)
        try:
            container = stack.enter_context(_opened(source, options, limits, gpu))
        finally:
            meter.check()  # the meter ended the file early: report that, not FFmpeg's error
        yield container


@contextmanager
def _opened(
    source: Any,
    options: dict[str, str],
    limits: Limits,
    gpu: int | None,
    timeout_seconds: tuple[float, float] | None = None,
    file_format: str | None = None,
) -> Iterator[Any]:
    """``file_format``: FFmpeg's name of it; None: the one that FFmpeg finds."""
    limits.limit_blocks()
    try:
        container = av.open(
            source,
            "r",
            format=file_format,
            options=options,
            buffer_size=BUFFER_BYTES,
            metadata_errors="ignore",
            hwaccel=hardware_decoder(gpu),
            timeout=timeout_seconds,
        )
    except NoMemoryError as error:  # FFmpeg's error for MP4 and AVI with too many streams
        raise limits.too_many_streams() from error
    except ArgumentError as error:  # FFmpeg's error for a format that is not on its list
        if isinstance(source, str) and scheme_of(source) not in ("http", "https"):
            raise
        raise FormatRefused(
            "damaged, or in a format that is not allowed, such as a playlist, which can open other "
            "files and hosts (for a camera: --allow-playlists)"
        ) from error
    with container:
        limits.check_streams(len(container.streams))
        for stream in container.streams.video:
            if stream.codec_context is not None:
                limits.check_size(stream.codec_context.width, stream.codec_context.height)
                stream.codec_context.options = limits.decoder_options()
        yield container


def video_of(container: Any) -> Any | None:
    """The first video stream; None if there is none or no decoder for it."""
    stream = next(iter(container.streams.video), None)
    return None if stream is None or stream.codec_context is None else stream


class _MeteredFile:
    """A file's bytes for FFmpeg, which end at the meter's limit and at a read error.

    Exceptions must not pass through FFmpeg: the meter keeps the cause.
    """

    def __init__(self, path: Path, file: FileIO, meter: Meter) -> None:
        self.name = str(path)
        """FFmpeg uses the extension to guess the format."""
        self._file = file
        self._meter = meter

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes."""
        if self._meter.exceeded:
            return b""
        try:
            content = self._file.read(size)
        except OSError as error:
            self._meter.read_error = error.strerror or type(error).__name__
            return b""
        self._meter.count(len(content))
        return content

    def seek(self, offset: int, whence: int) -> int:
        """The new position, or a negative number if it is invalid."""
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError):
            return INVALID_SEEK

    def tell(self) -> int:
        """The position."""
        return self._file.tell()
