"""Each image's detections beside its objects, in the classes of the data set.

Takes ``Detections`` and a ``DataSet``; gives arrays for the metrics. Classes meet by their names: a
model numbers them its own way. Knows no metric.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ssd_core.checkpoints.labels import BACKGROUND_NAMES
from ssd_core.errors import EvaluationError
from ssd_core.found import Detections
from ssd_core.training.data import DataSet, LabelledImage

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class PairedImage:
    """The detections of an image and its objects, those of the classes that are evaluated."""

    boxes_xywh: Floats
    """(D, 4) in pixels; best first, equal scores in the detector's order."""
    scores: Floats
    """(D,)"""
    classes: Ints
    """(D,) from 1 on: indices of the data set's labels; so are those of objects."""
    object_boxes_xywh: Floats
    """(N, 4) in pixels."""
    object_classes: Ints
    """(N,)"""
    object_areas: Floats
    """(N,) in square pixels."""
    object_is_ignored: Bools
    """(N,) neither to be found nor false if found."""


@dataclass(frozen=True, eq=False)
class Paired:
    """All images of a data set, in its order."""

    images: tuple[PairedImage, ...]
    classes: tuple[int, ...]
    """Those that are evaluated, rising."""
    labels: tuple[str, ...]
    """The data set's: ``labels[classes[0]]`` is the first name."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes that are evaluated."""
        return tuple(self.labels[number] for number in self.classes)


def pair(
    detections: Sequence[Detections], data_set: DataSet, known: Collection[str] | None
) -> Paired:
    """Put the detections of each image beside its objects.

    ``known``: labels that are evaluated; default: all of the data set. Raises EvaluationError
    unless every image has its detections, some class is known, and some object is to be found.
    """
    if len(detections) != len(data_set.images):
        raise EvaluationError(
            f"{len(detections)} images with detections, {len(data_set.images)} with labels: "
            "give the detections of every image, in the order of the data set"
        )
    names = data_set.labels if known is None else known
    evaluated = {
        label: number for number, label in enumerate(data_set.labels) if number and label in names
    }
    if not evaluated:
        raise EvaluationError(no_common_class(data_set.labels[1:], list(names)))
    images = tuple(
        _paired(found, image, evaluated)
        for found, image in zip(detections, data_set.images, strict=True)
    )
    if not any((~image.object_is_ignored).any() for image in images):
        raise EvaluationError(
            f"nothing to find: no image has a labelled object of {_listed(list(evaluated))}: "
            "label some"
        )
    return Paired(images, tuple(evaluated.values()), data_set.labels)


def no_common_class(data_labels: Sequence[str], model_labels: Sequence[str]) -> str:
    """What is wrong if data set and model share no label, in one line."""
    return (
        f"no class in common: the data set has {_listed(data_labels)}; the model has "
        f"{_listed([each for each in model_labels if each not in BACKGROUND_NAMES])}: classes meet "
        "by their names, letter by letter: rename those of the data set"
    )


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _paired(found: Detections, image: LabelledImage, evaluated: dict[str, int]) -> PairedImage:
    classes = np.array([evaluated.get(name, 0) for name in found.names], np.int64)
    scores = found.scores.numpy().astype(np.float64)
    best_first = np.argsort(-scores, kind="stable")
    taken = best_first[classes[best_first] > 0]
    kept = np.isin(image.classes, list(evaluated.values()))
    return PairedImage(
        _xywh(found.boxes.numpy()[taken]),
        scores[taken],
        classes[taken],
        _xywh(image.boxes[kept]),
        image.classes[kept],
        image.areas[kept].astype(np.float64),
        image.is_ignored[kept],
    )


def _xywh(boxes_xyxy: npt.NDArray[np.float32]) -> Floats:
    """In float64, where the width of an fp32 box keeps every digit that matters."""
    boxes = boxes_xyxy.astype(np.float64).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes
