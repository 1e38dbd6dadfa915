"""What still pictures say about themselves: their own names, and when they were taken.

Takes paths and decoded pictures; opens nothing.
"""

from datetime import UTC, datetime
from pathlib import Path

import av

from worker.sources.orientation import Orientation
from worker.sources.picture_files import is_picture
from worker.sources.pictures import DecodedPicture

STILL_FORMATS = {"jpeg_pipe", "png_pipe", "webp_pipe"}
EXIF_TIME = "%Y:%m:%d %H:%M:%S%z"


def is_still_picture(path: Path, kind: str) -> bool:
    """Whether a file is one picture: by its name, and by FFmpeg's name of its format."""
    return kind in STILL_FORMATS and is_picture(path)


def decoded(
    picture: av.VideoFrame, orientation: Orientation, path: Path, is_still: bool
) -> DecodedPicture:
    """A picture with what its file says about it; only a still picture has a name and no pts."""
    if not is_still:
        return DecodedPicture(picture, orientation)
    return DecodedPicture(picture, orientation, False, shown_name(path), taken_at(picture))


def shown_name(path: Path) -> str:
    """A file's name as text; bytes that are not UTF-8 become backslashes and digits."""
    return path.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def taken_at(picture: av.VideoFrame) -> datetime | None:
    """When EXIF says that a picture was taken, in UTC; None without a time zone: it could be any.

    CIPA DC-008 (Exif 2.31), tags DateTimeOriginal and OffsetTimeOriginal.
    """
    # FFmpeg puts the directory before a tag's name, and knows one of these only by its number.
    try:
        stated = {key.rpartition("/")[2]: value for key, value in picture.metadata.items()}
    except UnicodeDecodeError:  # any tag that is not UTF-8: PyAV gives all or none
        return None
    time = stated.get("DateTimeOriginal")
    offset = stated.get("OffsetTimeOriginal") or stated.get("0x9011")
    if not time or not offset:
        return None
    try:
        return datetime.strptime(f"{time.strip()}{offset.strip()}", EXIF_TIME).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
