"""Images on disk: where they are, how large they are, and their pixels as people see them.

A picture is turned and mirrored as its EXIF data say, as the worker, browsers and labelling tools
show it. Knows no annotations.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from unicodedata import normalize

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ssd_core.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".JPG", ".JPEG", ".PNG")
"""Tried for a name without one, or with a wrong one."""
EXIF_ORIENTATION = 0x0112
UPRIGHT = 1
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By the value of the EXIF tag (CIPA DC-008); any other value means upright."""
QUARTER_TURNS = (5, 6, 7, 8)
"""Those that swap width and height."""
BITS_ABOVE_BYTE = 8
"""Of 16-bit grey."""


@dataclass(frozen=True)
class ImageFile:
    """An image file that has been found; calling it reads the pixels."""

    path: Path
    height: int
    """As stored, in pixels."""
    width: int
    orientation: int
    """The value of its EXIF tag."""

    @property
    def is_turned(self) -> bool:
        """Whether width and height are swapped once it is upright."""
        return self.orientation in QUARTER_TURNS

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) once upright."""
        return (self.width, self.height) if self.is_turned else (self.height, self.width)

    def __call__(self) -> npt.NDArray[np.uint8]:
        """(H, W, 3) RGB, upright. Raises DataError."""
        try:
            with _opened(self.path) as image:
                pixels = np.asarray(_turned(_as_rgb(image), self.orientation))
        except Exception as error:  # damaged files make Pillow raise errors of many classes
            raise DataError(f"{self.path}: cannot be decoded ({_reason(error)})") from error
        if pixels.shape[:2] != self.size:
            raise DataError(f"{self.path}: has changed since the data set was read")
        return pixels

    def upright_box(self, box: tuple[float, float, float, float]) -> tuple[float, ...]:
        """Where a box (xyxy, in pixels as stored) of a picture turned by a quarter lies upright."""
        x1, y1, x2, y2 = box
        if self.orientation in (6, 7):
            y1, y2 = self.height - y2, self.height - y1
        if self.orientation in (7, 8):
            x1, x2 = self.width - x2, self.width - x1
        return y1, x1, y2, x2


def open_image_file(path: Path) -> ImageFile:
    """Read the header of an image. Raises DataError if it is none."""
    try:
        with _opened(path) as image:
            return ImageFile(path, image.height, image.width, _orientation(image))
    except Exception as error:  # as above
        raise DataError(f"cannot be decoded ({_reason(error)})") from error


def find_image(file_name: str, stem: str, folders: Sequence[Path]) -> Path | None:
    """The image of that name in the first folder that has it, else of that name without its path.

    Takes the separators of Windows, absolute paths of this machine and of others, and both ways to
    write accented letters. ``stem``: tried last, with any suffix; "" for none.
    """
    for path in _candidates(file_name, stem, folders):
        try:
            if path.is_file():
                return path
        except OSError:  # a name that is too long, for example
            continue
    return None


def _candidates(file_name: str, stem: str, folders: Sequence[Path]) -> Iterator[Path]:
    # macOS writes letters and accents apart, other systems together.
    names = list(
        dict.fromkeys([file_name, normalize("NFC", file_name), normalize("NFD", file_name)])
    )
    for name in names:
        if Path(name).is_absolute():
            yield Path(name)
        windows = PureWindowsPath(name)
        relative = Path(*windows.parts[bool(windows.anchor) :])
        for folder in folders:
            yield folder / name.lstrip("/")
            yield folder / relative
        yield from (folder / windows.name for folder in folders)
    if stem:
        yield from (folder / f"{stem}{suffix}" for folder in folders for suffix in SUFFIXES)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Without Pillow's warnings of damaged EXIF data and of large images: nobody acts on them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            yield image


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(EXIF_ORIENTATION, UPRIGHT)
    except Exception:  # damaged EXIF data: of many classes, too
        return UPRIGHT
    return value if value in TURNS else UPRIGHT


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # which Pillow would clip to white
        grey = (np.asarray(image) >> BITS_ABOVE_BYTE).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    return " ".join(f"{error}".split()) or type(error).__name__
