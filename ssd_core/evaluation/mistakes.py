"""What a detector gets wrong at its working threshold: misses and false alarms, worst first.

An evaluation in, lists of mistakes out, each with its reason. Knows no pictures: see ``pages``.
"""

from dataclasses import dataclass

import numpy as np

from ssd_core.evaluation.matches import Ranking, iou
from ssd_core.evaluation.paired import Floats, Paired
from ssd_core.evaluation.results import Evaluation

MIN_IOU = 0.5
"""For a detection to be of the object."""
BESIDE_IOU = 0.1
"""For it to be a detection of the object in the wrong place."""


@dataclass(frozen=True, eq=False)
class Mistake:
    """An object that is missed, or a detection of what is not there."""

    image: int
    """Index in the data set."""
    box_xywh: Floats
    """In pixels: the object's, or the detection's."""
    label: str
    reason: str
    """What was found instead, or what is there instead, in words."""


def misses(evaluation: Evaluation, score_threshold: float) -> list[Mistake]:
    """The objects that no detection above the threshold finds at IoU 0.5.

    Worst first: those with the lowest score of whatever finds them, then the largest.
    """
    paired = evaluation.paired
    found = []
    for number, ranking in zip(paired.classes, evaluation.rankings, strict=True):
        scores = _score_by_object(ranking)
        for index, image in enumerate(paired.images):
            own = np.flatnonzero((image.object_classes == number) & ~image.object_is_ignored)
            for each in own.tolist():
                score = scores.get((index, each), 0.0)
                if score > np.float32(score_threshold):
                    continue
                box = image.object_boxes_xywh[each]
                reason = f"found with {score:.2f} only" if score else "not found at any score"
                mistake = Mistake(index, box, paired.labels[number], reason)
                found.append((score, -box[2] * box[3], index, mistake))
    return [mistake for *_, mistake in sorted(found, key=lambda each: each[:3])]


def false_alarms(evaluation: Evaluation, score_threshold: float) -> list[Mistake]:
    """The detections above the threshold that find no object at IoU 0.5; best score first."""
    paired = evaluation.paired
    found = []
    for number, ranking in zip(paired.classes, evaluation.rankings, strict=True):
        is_false = ~ranking.is_true[0] & ~ranking.is_ignored[0]
        is_false &= ranking.scores > np.float32(score_threshold)
        for position in np.flatnonzero(is_false).tolist():
            index, own = int(ranking.images[position]), int(ranking.detections[position])
            box = paired.images[index].boxes_xywh[own]
            mistake = Mistake(
                index,
                box,
                f"{paired.labels[number]} {ranking.scores[position]:.2f}",
                _there_instead(paired, index, box, number),
            )
            found.append((-ranking.scores[position], index, own, mistake))
    return [mistake for *_, mistake in sorted(found, key=lambda each: each[:3])]


def _score_by_object(ranking: Ranking) -> dict[tuple[int, int], float]:
    """(image, object) to the score of the detection that finds it at IoU 0.5."""
    true = np.flatnonzero(ranking.is_true[0])
    objects = ranking.objects[0, true]
    return {
        (image, found): score
        for image, found, score in zip(
            ranking.images[true].tolist(),
            objects.tolist(),
            ranking.scores[true].tolist(),
            strict=True,
        )
    }


def _there_instead(paired: Paired, index: int, box_xywh: Floats, number: int) -> str:
    image = paired.images[index]
    ious = iou(box_xywh[None], image.object_boxes_xywh)[0]
    is_same = image.object_classes == number
    same = ious[is_same].max(initial=0)
    if same >= MIN_IOU:
        return "found already"
    if ious.max(initial=0) >= MIN_IOU:
        return f"there is: {paired.labels[image.object_classes[ious.argmax()]]}"
    if same >= BESIDE_IOU:
        return f"beside its place: IoU {same:.2f}"
    return "nothing labelled there"
