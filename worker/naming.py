"""Camera ids: from what was typed, or made from the file or URL."""

import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from worker.errors import UsageError
from worker.frames import CAMERA_ID

MAX_LENGTH = 64


def parse_sources(arguments: Iterable[str]) -> dict[str, str]:
    """Camera ids and their URLs or paths, from ``SOURCE`` or ``CAMERA_ID=SOURCE`` each.

    Raises UsageError for a bad id, and for two sources with one id.
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
    named, equals, source = argument.partition("=")
    if equals and "/" not in named and not Path(argument).exists():
        check_camera_id(named)
        if not source:
            raise UsageError(f"camera {named}: there is no source after the =")
        return named, source
    return _derived_id(argument), argument


def check_camera_id(camera_id: str) -> None:
    """Raise UsageError unless the id fits into keys, file names and URLs as it is."""
    if not CAMERA_ID.fullmatch(camera_id):
        raise UsageError(
            f"camera id {camera_id!r}: use 1 to {MAX_LENGTH} of letters, digits, '.', '_' and '-'"
        )


def _derived_id(source: str) -> str:
    """The file's stem, or the URL's host: cameras have passwords in all the rest."""
    if "://" in source:
        try:
            parts = urlsplit(source)
            text = parts.hostname or ""
        except ValueError:
            text = ""
        if not text or "@" in parts.path:
            raise UsageError(
                "a camera's URL cannot be read: write @ : / # ? % [ ] in its user and password as "
                "%40 %3A %2F %23 %3F %25 %5B %5D"
            )
    else:
        text = Path(source).stem
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)[:MAX_LENGTH] or "camera"
