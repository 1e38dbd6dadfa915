"""Pascal VOC 2007's average precision: 11 points, IoU 0.5, difficult objects ignored.

The development kit's rules (VOCevaldet.m): a detection belongs to the object that it overlaps most,
found already or not; found twice is false the second time. Not interpolated over every recall, as
COCO and VOC since 2010 do: see ``coco``.
"""

import numpy as np

from ssd_core.evaluation.matches import iou
from ssd_core.evaluation.paired import Bools, Paired, PairedImage

MIN_IOU = 0.5
POINTS = 10
"""Recalls 0, 1/10, ..., 10/10."""


def voc07_precision(paired: Paired) -> dict[int, float | None]:
    """The AP of each class; None for a class without objects to be found."""
    return {number: _average_precision(paired, number) for number in paired.classes}


def _average_precision(paired: Paired, number: int) -> float | None:
    scores, verdicts, objects = [np.zeros(0)], [np.zeros((0, 2), bool)], 0
    for image in paired.images:
        objects += int(
            np.count_nonzero((image.object_classes == number) & ~image.object_is_ignored)
        )
        found = image.classes == number
        scores.append(image.scores[found])
        verdicts.append(_verdicts(image, number))
    best_first = np.argsort(-np.concatenate(scores), kind="stable")
    is_true, is_false = np.concatenate(verdicts)[best_first].T
    return eleven_points(is_true, is_false, objects)


def eleven_points(is_true: Bools, is_false: Bools, objects: int) -> float | None:
    """AP of a ranking, best first, of which some are true, some false, the others ignored.

    The mean over the recalls 0, 0.1, ..., 1 of the best precision at that recall or a higher one.
    None without objects.
    """
    if not objects:
        return None
    true = np.cumsum(is_true)
    precision = true / np.maximum(true + np.cumsum(is_false), 1)
    # In whole numbers: 3 of 10 objects are a recall of 0.3, whatever 0.3 is in binary.
    best = [
        precision[true * POINTS >= point * objects].max(initial=0.0) for point in range(POINTS + 1)
    ]
    return float(np.mean(best))


def _verdicts(image: PairedImage, number: int) -> Bools:
    """(D, 2) whether each detection of the class is true, and whether it is false."""
    own = np.flatnonzero(image.object_classes == number)
    boxes = image.boxes_xywh[image.classes == number]
    verdicts = np.zeros((len(boxes), 2), bool)
    if not len(own):
        verdicts[:, 1] = True
        return verdicts
    ious = iou(boxes, image.object_boxes_xywh[own])
    taken = np.zeros(len(own), bool)
    for row, nearest in enumerate(ious.argmax(axis=1)):
        if ious[row, nearest] < MIN_IOU:
            verdicts[row, 1] = True
        elif not image.object_is_ignored[own[nearest]]:
            verdicts[row, int(taken[nearest])] = True
            taken[nearest] = True
    return verdicts
