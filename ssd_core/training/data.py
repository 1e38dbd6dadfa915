"""Labelled images: what training and evaluation read, whatever file format described them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image on disk, and the objects in it."""

    name: str
    """Unique in its data set; COCO's ``file_name``, with ``#`` and the index for a video frame."""
    read: Callable[[], npt.NDArray[np.uint8]]
    """Reads it, (H, W, 3) RGB, upright; can be pickled. Raises DataError."""
    width: int
    height: int
    boxes: npt.NDArray[np.float32]
    """(N, 4) xyxy in pixels."""
    classes: npt.NDArray[np.int64]
    """(N,) from 1 on: indices of the data set's labels."""
    is_ignored: npt.NDArray[np.bool_]
    """(N,) COCO's crowds and VOC's difficult objects: neither to be found nor false if found."""
    areas: npt.NDArray[np.float32]
    """(N,) in square pixels, as annotated (of the outline, where there is one)."""
    recording: str = ""
    """Path of the video that it is a frame of: those look alike. Empty for an image file."""
    together: str = ""
    """Images of one name are read quickest one after the other: neighbouring frames of a video."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """Labelled images of the same classes."""

    labels: tuple[str, ...]
    """One per class; class 0 is the background."""
    images: tuple[LabelledImage, ...]
    digest: str
    """``sha256:`` of all that is annotated: changes when an object, a size or a name does."""
