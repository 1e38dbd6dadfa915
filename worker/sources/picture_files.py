"""Files of pictures: which they are, by their names, and of what kind, by their first bytes."""

from pathlib import Path

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif"}
"""In lower case: what is taken from a folder."""
HEADER_BYTES = 4096
JPEG, PNG, RIFF, WEBP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"WEBP"


def is_picture(path: Path) -> bool:
    """Whether a file's name says that it is a picture."""
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")


def kind_of_picture(path: Path) -> str | None:
    """FFmpeg's name for the format of a picture; None for other files. Raises OSError.

    FFmpeg itself takes larger JPEGs for a numbered sequence of files, by their names, and that
    reads other files.
    """
    if not is_picture(path):
        return None
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
    if start.startswith(JPEG):
        return "jpeg_pipe"
    if start.startswith(PNG):
        return "apng" if b"acTL" in start.partition(b"IDAT")[0] else "png_pipe"
    return "webp_pipe" if start[:4] == RIFF and start[8:12] == WEBP else None
