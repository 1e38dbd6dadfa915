"""What reads frames of recordings by their index: a protocol, for this package decodes no video.

The program that does hands an object in; it travels to the loader's processes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt


class Frames(Protocol):
    """The frames of one recording, up to one of them; can be pickled."""

    @property
    def count(self) -> int:
        """How many there are, from the first one on: fewer than asked for in a shorter file."""
        ...

    def size(self, frame_index: int) -> tuple[int, int]:
        """(height, width) in pixels, upright."""
        ...

    def together(self, frame_index: int) -> str:
        """A name in common with the frames that are decoded on the way to this one."""
        ...

    def read(self, frame_index: int) -> npt.NDArray[np.uint8]:
        """(H, W, 3) RGB, upright: what a replay numbers so. Raises DataError."""
        ...


class Recordings(Protocol):
    """Finds recordings by the names that a replay gives them."""

    def find(self, camera_id: str, folders: Sequence[Path]) -> Path | None:
        """The recording of that id in the first folder that has one; "": the only one there.

        Raises DataError for several.
        """
        ...

    def frames(self, recording: Path, last: int) -> Frames:
        """Its frames up to index ``last``. Raises DataError if it cannot be decoded."""
        ...
