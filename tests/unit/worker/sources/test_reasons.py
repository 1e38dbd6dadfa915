import errno

import pytest
from av.error import (
    ConnectionRefusedError as RefusedError,
    ExitError,
    HTTPForbiddenError,
    HTTPNotFoundError,
    InvalidDataError,
    OSError as FFmpegOSError,
    TimeoutError as TimedOutError,
)

from worker.sources.reasons import SILENCE_SECONDS, reason_of

URL = "rtsp://user:secret@127.0.0.1/stream"


def error(kind, number=1):
    return kind(number, "words of FFmpeg", URL)


@pytest.mark.parametrize(
    ("kind", "number", "opened", "silent_seconds", "reason"),
    [
        (RefusedError, errno.ECONNREFUSED, False, 0, "refused"),
        (HTTPForbiddenError, 1, False, 0, "unauthorized"),
        (HTTPNotFoundError, 1, False, 9, "not_found"),
        (FileNotFoundError, errno.ENOENT, False, 0, "not_found"),
        (TimedOutError, errno.ETIMEDOUT, False, 1, "timeout"),
        (ExitError, 1, True, 1, "stall"),
        (InvalidDataError, 1, False, SILENCE_SECONDS, "timeout"),
        (PermissionError, errno.EPERM, False, SILENCE_SECONDS, "timeout"),
        (FFmpegOSError, errno.EIO, True, SILENCE_SECONDS, "stall"),
        (InvalidDataError, 1, False, 0, "closed"),
        (PermissionError, errno.EPERM, False, 0, "closed"),
        (ConnectionResetError, errno.ECONNRESET, True, 0, "closed"),
        (BrokenPipeError, errno.EPIPE, True, 0, "closed"),
        (InvalidDataError, 1, True, 0, "invalid_data"),
        (FFmpegOSError, errno.EHOSTUNREACH, False, 0, "timeout"),
        (FFmpegOSError, errno.EIO, False, 0, "error"),
        (PermissionError, errno.EPERM, True, 0, "error"),
        (FFmpegOSError, errno.EINVAL, False, 0, "error"),
    ],
)
def test_an_error_has_its_reason_and_shows_no_url(kind, number, opened, silent_seconds, reason):
    found, detail = reason_of(
        error(kind, number), URL, opened=opened, silent_seconds=silent_seconds
    )
    assert found == reason
    assert detail
    assert "secret" not in detail


def test_what_is_no_video_over_http_is_invalid_data_and_no_hang_up():
    url = "http://127.0.0.1/stream"
    assert reason_of(error(InvalidDataError), url, opened=False, silent_seconds=0)[0] == (
        "invalid_data"
    )


def test_a_host_without_an_address_is_told_as_such():
    url = "rtsp://no.such.host.invalid/stream"
    reason, _ = reason_of(error(FFmpegOSError, errno.EIO), url, opened=False, silent_seconds=0)
    assert reason == "unknown_host"


@pytest.mark.parametrize(
    ("url", "number", "opened"),
    [
        ("rtsp://no.such.host.invalid/stream", errno.EIO, True),  # it had one while it was opened
        ("rtsp://no.such.host.invalid/stream", errno.EINVAL, False),
        ("/media/no.such.host.invalid", errno.EIO, False),  # a disk that cannot be read
        ("rtsp://[not.a.host/stream", errno.EIO, False),
    ],
)
def test_other_errors_are_not_put_down_to_the_hosts_name(url, number, opened):
    reason, detail = reason_of(error(FFmpegOSError, number), url, opened=opened, silent_seconds=0)
    assert (reason, detail) == ("error", "words of FFmpeg")


def test_a_name_that_no_host_can_have_is_told_as_such():
    url = f"rtsp://{'a' * 70}.invalid/stream"
    reason, _ = reason_of(error(FFmpegOSError, errno.EIO), url, opened=False, silent_seconds=0)
    assert reason == "unknown_host"


def test_an_error_without_words_has_an_empty_detail():
    assert reason_of(OSError(), URL, opened=True, silent_seconds=0) == ("error", "")
