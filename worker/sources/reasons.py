"""Why a connection ended: FFmpeg's errors in, the reason codes of the README's table out.

FFmpeg's classes alone do not tell. A camera that says nothing in the RTSP handshake and one that
hangs up in it both give InvalidDataError (PermissionError after PLAY), and a read that timed out
gives InvalidDataError, EIO or the end of the stream. What tells them apart is how long it was
silent. No URL is in what comes out.
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
"""Without an answer or without a packet, after which a camera counts as lost. Long enough for a SYN
that was lost once; short enough to be back within 5 s if the camera answers only who comes anew."""

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
    """A connection that gives no more frames, with its reason and a detail for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def reason_of(
    error: FFmpegError | OSError, url: str, *, opened: bool, silent_seconds: float
) -> tuple[str, str]:
    """The reason code, and a detail for people.

    ``opened``: the camera was being read, no more asked for its stream. ``silent_seconds``: since
    the last packet, or since it was first called.
    """
    detail = error.strerror or ""  # str(error) would hold the URL
    for kind, reason in CERTAIN:
        if isinstance(error, kind):
            return reason, detail
    if silent_seconds >= SILENCE_SECONDS:
        return "stall" if opened else "timeout", f"nothing came for {silent_seconds:.0f} s"
    if isinstance(error, TIMEOUTS):
        return "stall" if opened else "timeout", "no whole packet came in time"
    if error.errno in NO_ROUTE:
        return "timeout", detail
    if isinstance(error, HUNG_UP):
        return "closed", detail
    unclear = isinstance(error, (InvalidDataError, PermissionError))
    if unclear and not opened and is_rtsp(url):
        return "closed", "it hung up in the handshake, or does not speak RTSP"
    if isinstance(error, InvalidDataError):
        return "invalid_data", detail
    if error.errno == errno.EIO and not opened and "://" in url and not _resolves(url):
        return "unknown_host", "its host name is not known here"
    return "error", detail


def is_rtsp(url: str) -> bool:
    """Whether a URL is read with RTSP."""
    return url.lower().startswith(("rtsp://", "rtsps://"))


def _resolves(url: str) -> bool:
    """Whether the host has an address: FFmpeg says EIO where a name has none."""
    try:
        socket.getaddrinfo(urlsplit(url).hostname, None)
    except (socket.gaierror, UnicodeError):
        return False
    except ValueError:  # not a URL as Python knows them
        return True
    return True
