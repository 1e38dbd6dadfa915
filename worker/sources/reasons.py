"""Why a connection ended: FFmpeg's errors in, the reason codes of docs/events.md out.

FFmpeg's error classes alone do not say. A camera that is silent in the RTSP handshake and one that
closes the connection in it both give InvalidDataError (PermissionError after PLAY), and a read that
timed out gives InvalidDataError, EIO or the end of the stream. The length of the silence tells them
apart. No result contains a URL.
"""

import errno
import socket
from urllib.parse import urlsplit

from av.error import (
    ConnectionRefusedError as RefusedError,
    ExitError,
    FFmpegError,
    HTTPForbiddenError,
    HTTPNotFoundError,
    HTTPUnauthorizedError,
    InvalidDataError,
    TimeoutError as TimedOutError,
)

SILENCE_SECONDS = 3.5
"""Silence, without an answer or a packet, after which a camera counts as lost. Long enough for a
SYN that was lost once; short enough to be back within 5 s if the camera answers only a new
connection.
"""

CERTAIN: tuple[tuple[type[Exception], str], ...] = (
    (RefusedError, "refused"),
    (HTTPUnauthorizedError, "unauthorized"),
    (HTTPForbiddenError, "unauthorized"),
    (HTTPNotFoundError, "not_found"),
    (FileNotFoundError, "not_found"),  # FFmpeg's is one, too
)
TIMEOUTS = (TimedOutError, ExitError)
NO_ROUTE = (errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH)
HUNG_UP = (EOFError, ConnectionResetError, ConnectionAbortedError, BrokenPipeError)
"""Python's classes; FFmpeg's are among them."""


class ConnectionLost(Exception):
    """A connection that delivers no more frames, with its reason and a detail for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def reason_of(
    error: FFmpegError | OSError, url: str, *, opened: bool, silent_seconds: float
) -> tuple[str, str]:
    """The reason code, and a detail for people.

    ``opened``: the camera was being read, so the handshake was over. ``silent_seconds``: since the
    last packet, or since the start of the attempt.
    """
    detail = error.strerror or ""  # str(error) would hold the URL
    for kind, reason in CERTAIN:
        if isinstance(error, kind):
            return reason, detail
    if silent_seconds >= SILENCE_SECONDS:
        return "stall" if opened else "timeout", f"nothing arrived for {silent_seconds:.0f} s"
    if isinstance(error, TIMEOUTS):
        return "stall" if opened else "timeout", "no whole packet arrived in time"
    if error.errno in NO_ROUTE:
        return "timeout", detail
    if isinstance(error, HUNG_UP):
        return "closed", detail
    unclear = isinstance(error, (InvalidDataError, PermissionError))
    if unclear and not opened and is_rtsp(url):
        return "closed", "it closed the connection in the handshake, or does not speak RTSP"
    if isinstance(error, InvalidDataError):
        return "invalid_data", detail
    if error.errno == errno.EIO and not opened and "://" in url and not _resolves(url):
        return "unknown_host", "its host name cannot be resolved here"
    return "error", detail


def is_rtsp(url: str) -> bool:
    """Whether a URL is read with RTSP."""
    return url.lower().startswith(("rtsp://", "rtsps://"))


def is_http(url: str) -> bool:
    """Whether a URL is read with HTTP."""
    return url.lower().startswith(("http://", "https://"))


def _resolves(url: str) -> bool:
    """Whether the host has an address: FFmpeg reports EIO if it has none."""
    try:
        socket.getaddrinfo(urlsplit(url).hostname, None)
    except (socket.gaierror, UnicodeError):
        return False
    except ValueError:  # not a URL as Python knows them
        return True
    return True
