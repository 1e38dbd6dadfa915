"""A folder of pictures as one recording: a frame per picture, in the natural order of their names.

A picture that cannot be read is named and passed over. Other files are left alone, and a folder
within the folder too.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from hashlib import file_digest, sha256
from pathlib import Path

from worker.errors import SourceError, UsageError
from worker.sources.animated_webp import AnimatedWebp, is_animated_webp
from worker.sources.decoding import DecodedPictures
from worker.sources.limits import DEFAULT_LIMITS, Limits
from worker.sources.picture_files import is_picture
from worker.sources.pictures import DecodedPicture, PictureReader
from worker.sources.stills import shown_name

log = logging.getLogger(__name__)

NUMBER = re.compile(r"(\d+)")
NAMED = 3
"""Names in a line; of more, how many."""


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder in order. Raises UsageError without any, SourceError."""
    try:
        entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise SourceError(f"{folder}: cannot read it: {error.strerror}") from error
    pictures = [path for path in entries if is_picture(path) and path.is_file()]
    if not pictures:
        raise UsageError(
            f"{folder}: is a directory without pictures (JPEG, PNG, WebP, GIF): "
            f"give the recordings in it one by one, as in {folder}/*"
        )
    return sorted(pictures, key=lambda path: natural_order(path.name))


def say_what_is_left_out(folder: Path) -> None:
    """Log which entries of a folder are not taken for pictures."""
    others = sorted(p.name for p in folder.iterdir() if not (is_picture(p) and p.is_file()))
    if others := [name for name in others if not name.startswith(".")]:
        log.warning("%s: only its pictures are analysed, not %s", folder, names_of(others))


def natural_order(name: str) -> tuple[list[str | int], str]:
    """A key that puts 2.jpg before 10.jpg; equal but for leading zeros: by the plain name."""
    parts = NUMBER.split(name.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def folder_digest(folder: Path) -> str:
    """SHA-256 (hex) over the names and the whole content of the pictures. Raises OSError."""
    digest = sha256()
    for path in pictures_in(folder):
        name = path.name.encode("utf-8", "surrogateescape")
        with path.open("rb") as file:
            content = file_digest(file, "sha256").digest()
        digest.update(len(name).to_bytes(4, "big") + name + content)
    return digest.hexdigest()


class FolderPictures:
    """The pictures of a folder."""

    def __init__(
        self, folder: Path, gpu: int | None = None, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self._folder = folder
        self._gpu = gpu
        self._limits = limits
        self.damaged = 0
        self.cut_off = False
        self.over_limit = ""
        self.broken: list[str] = []
        """Names of pictures with errors in them, most of which cannot be decoded."""

    def __iter__(self) -> Iterator[DecodedPicture]:
        """Pictures in order; of one that moves, each of its pictures."""
        for path in pictures_in(self._folder):
            found = 0
            try:
                reader = self._reader(path)
                for picture in reader:
                    found += 1
                    yield replace(picture, has_time=False, file_name=shown_name(path))
                if not found:
                    raise reader.no_picture()
                broken = bool(reader.damaged or reader.cut_off or reader.over_limit)
            except SourceError as error:
                log.warning("%s", error)
                broken = True
            except OSError as error:
                log.warning("%s: cannot read it: %s", path, error.strerror)
                broken = True
            if broken:
                self.broken.append(shown_name(path))

    def no_picture(self) -> SourceError:
        """The error for a folder without a decodable picture."""
        return SourceError(f"{self._folder}: none of the pictures in it can be decoded")

    def _reader(self, path: Path) -> PictureReader:
        if is_animated_webp(path):
            return AnimatedWebp(path, self._limits)
        return DecodedPictures(path, self._gpu, self._limits)


def names_of(names: list[str]) -> str:
    """The first names, and how many more."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
