"""Animated WebP, which FFmpeg cannot decode: through Pillow, to pictures like FFmpeg's.

RIFF and VP8X: https://developers.google.com/speed/webp/docs/riff_container
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from worker.errors import SourceError
from worker.sources.limits import DEFAULT_LIMITS, Limits, OverLimit
from worker.sources.orientation import UPRIGHT, Orientation
from worker.sources.pictures import DecodedPicture

HEADER_BYTES = 30
ANIMATION = 0x02
MILLISECOND = Fraction(1, 1000)
DEFAULT_MS = 100
"""How long a picture stays that says 0: browsers take that for a mistake."""
EXIF_ORIENTATION = 0x0112
ORIENTATIONS = {
    2: Orientation(0, True), 3: Orientation(2), 4: Orientation(2, True), 5: Orientation(1, True),
    6: Orientation(3), 7: Orientation(3, True), 8: Orientation(1),
}  # fmt: skip
"""By the value of the EXIF tag (CIPA DC-008); any other value means upright."""


def is_animated_webp(path: Path) -> bool:
    """Whether a file says in its header that it is one. Raises OSError."""
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    is_extended = header[:4] == b"RIFF" and header[8:16] == b"WEBPVP8X"
    return is_extended and len(header) == HEADER_BYTES and bool(header[20] & ANIMATION)


class AnimatedWebp:
    """The pictures of one file, with the times at which they are shown."""

    def __init__(self, path: Path, limits: Limits = DEFAULT_LIMITS) -> None:
        self._path = path
        self._limits = limits
        self.damaged = 0
        self.cut_off = False
        self.over_limit = ""
        self.broken: list[str] = []
        self.frames = 0
        """As the file states."""

    def __iter__(self) -> Iterator[DecodedPicture]:
        """Pictures in presentation order. Raises SourceError."""
        from PIL import Image, UnidentifiedImageError  # 50 ms, for the rare file

        try:
            self._check_limits()
            with Image.open(self._path, formats=("WEBP",)) as image:
                self.frames = getattr(image, "n_frames", 1)
                orientation = ORIENTATIONS.get(image.getexif().get(EXIF_ORIENTATION, 1), UPRIGHT)
                pts = 0
                for index in range(self.frames):
                    image.seek(index)
                    picture = av.VideoFrame.from_ndarray(np.asarray(image.convert("RGB")), "rgb24")
                    stays = int(image.info.get("duration") or DEFAULT_MS)
                    picture.pts, picture.time_base, picture.duration = pts, MILLISECOND, stays
                    pts += stays
                    yield DecodedPicture(picture, orientation)
        except OverLimit as error:
            raise SourceError(f"{self._path}: {error}") from error
        except UnidentifiedImageError as error:
            raise SourceError(f"{self._path}: is not a picture that can be decoded") from error
        except (OSError, EOFError, ValueError, SyntaxError):
            self.cut_off = True

    def no_picture(self) -> SourceError:
        """The error for a file without a decodable picture."""
        return SourceError(f"{self._path}: no frame in it can be decoded")

    def _check_limits(self) -> None:
        with self._path.open("rb") as file:
            header = file.read(HEADER_BYTES)
        width, height = (1 + int.from_bytes(header[at : at + 3], "little") for at in (24, 27))
        self._limits.check_size(width, height)
        # Pillow reads the whole file at once.
        self._limits.check_bytes(self._path.stat().st_size)
