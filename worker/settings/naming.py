"""Camera ids and their sources: from what was typed, or with an id made from the file or URL.

Refuses what cannot be a source without showing it: there may be a password in it. Opens nothing.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from worker.errors import UsageError
from worker.frames import CAMERA_ID
from worker.secrecy.redaction import HOW_TO_WRITE, hide, redact_argument, split_url

MAX_LENGTH = 64
LONGEST_LOGIN_BYTES = 127
"""FFmpeg's RTSP client silently cuts a longer USER:PASSWORD, as written in the URL."""


def parse_sources(arguments: Iterable[str]) -> dict[str, str]:
    """Camera ids and their URLs or paths, from arguments ``SOURCE`` or ``CAMERA_ID=SOURCE``.

    Raises UsageError for a bad id or URL, and for two sources with one id.
    """
    sources: dict[str, str] = {}
    for argument in arguments:
        camera_id, source = _parse_source(argument)
        if camera_id in sources:
            raise UsageError(
                f"two sources have the camera id {camera_id}: name them with CAMERA_ID=SOURCE"
            )
        sources[camera_id] = source
    return sources


def _parse_source(argument: str) -> tuple[str, str]:
    if not argument:
        raise UsageError("a source is empty: give a camera's URL or a file")
    check_text(argument)
    hide(argument)
    named, equals, source = argument.partition("=")
    if "@" in argument and "://" not in argument:
        _check_that_one_is_a_file(argument, source)
    if equals and "/" not in named and not _exists(argument):
        check_camera_id(named)
        if not source:
            raise UsageError(f"camera {named}: no source after the =: write {named}=SOURCE")
        try:
            check_source(source)
        except UsageError as error:
            raise UsageError(f"camera {named}: {error}") from error
        return named, source
    return _derived_id(argument), argument


def check_camera_id(camera_id: str) -> None:
    """Raise UsageError unless the id can be part of keys, file names and URLs as it is."""
    if not CAMERA_ID.fullmatch(camera_id):
        raise UsageError(
            f"camera id {redact_argument(camera_id)!r}: use 1 to {MAX_LENGTH} letters, digits, "
            "'.', '_' and '-'"
        )


def check_source(source: str) -> None:
    """Raise UsageError, without the source, if a URL or path cannot mean what its writer meant."""
    check_text(source)
    if "://" in source:
        _host(source)
    elif "@" in source:
        _check_that_one_is_a_file(source)


def _check_that_one_is_a_file(*paths: str) -> None:
    if not any(path and _exists(path) for path in paths):
        raise UsageError(
            "a source contains an @ and is not an existing file: a camera's URL must start with "
            "its protocol, as in rtsp://USER:PASSWORD@HOST/PATH"
        )


def check_text(source: str) -> None:
    """Raise UsageError for a source that no file and no URL can have, or that events cannot hold.

    Names of files that are not UTF-8 reach Python as lone surrogates.
    """
    try:
        source.encode()
    except UnicodeEncodeError:
        raise UsageError("a source is not UTF-8 text: rename the file that it names") from None
    if "\0" in source:
        raise UsageError("a source contains a NUL character: no file has one, remove it")


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # a name that is too long, for example
        return False


def _derived_id(source: str) -> str:
    """The file's stem, or the URL's host: cameras have passwords in all the rest."""
    if "://" not in source:
        text = Path(source).stem
    elif not (text := _host(source)):
        raise UsageError("the camera's URL names no host: write rtsp://HOST/PATH")
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)[:MAX_LENGTH] or "camera"


def _host(url: str) -> str:
    """The URL's host. Raises UsageError if the URL cannot mean what its writer meant."""
    try:
        parts = split_url(url)
    except ValueError:
        raise UsageError(f"the camera's URL cannot be read: {HOW_TO_WRITE}") from None
    login = len(parts.netloc.rpartition("@")[0].encode())
    if parts.scheme in ("rtsp", "rtsps") and login > LONGEST_LOGIN_BYTES:
        raise UsageError(
            f"user and password take {login} bytes in the URL, but FFmpeg reads only "
            f"{LONGEST_LOGIN_BYTES}: choose shorter ones"
        )
    return parts.hostname or ""
