"""Images and objects as an annotation file describes them: nothing is checked against the images.

What the readers of formats give, and what a data set is made of.
"""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class AnnotatedObject:
    """An object in an image."""

    place: str
    """For people: where it stands in the file."""
    label: str
    box: tuple[float, float, float, float]
    """xyxy in pixels; finite, with a size."""
    is_ignored: bool
    area: float | None
    """In square pixels, if stated."""


@dataclass(slots=True)
class AnnotatedImage:
    """An image and the objects in it."""

    place: str
    file_name: str
    size: tuple[int, int] | None
    """(height, width) in pixels, if stated."""
    stem: str = ""
    """Of the image file, should ``file_name`` be wrong: tools keep it when files are renamed."""
    objects: list[AnnotatedObject] = field(default_factory=list)


@dataclass(slots=True)
class Annotations:
    """The content of one annotation file, or of one folder of them."""

    path: Path
    labels: list[str]
    """Of all classes, in the order of the file."""
    images: list[AnnotatedImage]
    folders: list[Path]
    """Where the images are looked for, unless the user says where they are."""
