"""COCO's twelve numbers and the AP of each class, through faster-coco-eval.

https://cocodataset.org/#detection-eval. The library is imported when it is needed: it comes with
the extra ``train``.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssd_core.errors import EvaluationError
from ssd_core.evaluation.paired import Floats, Paired

log = logging.getLogger(__name__)

NUMBERS = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR1",
    "AR10",
    "AR100",
    "AR_small",
    "AR_medium",
    "AR_large",
)
"""In the order of the library; sizes by area: small below 32 x 32 px, large from 96 x 96 px on."""


@dataclass(frozen=True)
class CocoNumbers:
    """None where there is no object of the size or class."""

    numbers: dict[str, float | None]
    """The twelve: the mean over the classes that have objects."""
    per_class: dict[int, tuple[float | None, float | None]]
    """AP and AP50 of each class."""


def coco_numbers(paired: Paired) -> CocoNumbers:
    """The numbers of these detections. Raises EvaluationError without the library."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise EvaluationError(
            f"evaluation needs faster-coco-eval ({error}): pip install 'ssd-worker[train]'"
        ) from error
    truth, found = (
        COCO(annotated, print_function=log.debug) for annotated in (_truth(paired), _found(paired))
    )
    evaluation = COCOeval_faster(truth, found, iouType="bbox", print_function=log.debug)
    evaluation.run()
    # (IoU thresholds, recalls, classes, area ranges, numbers of detections)
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return CocoNumbers(
        {
            name: _or_none(float(number))
            for name, number in zip(NUMBERS, evaluation.stats, strict=True)
        },
        {
            number: (_mean(precision[:, :, k]), _mean(precision[0, :, k]))
            for k, number in enumerate(paired.classes)
        },
    )


def _truth(paired: Paired) -> dict[str, Any]:
    return _data_set(
        paired,
        (
            {**_object(index, number, box, area), "iscrowd": int(ignored)}
            for index, image in enumerate(paired.images)
            for number, box, area, ignored in zip(
                image.object_classes.tolist(),
                image.object_boxes_xywh.tolist(),
                image.object_areas.tolist(),
                image.object_is_ignored.tolist(),
                strict=True,
            )
        ),
    )


def _found(paired: Paired) -> dict[str, Any]:
    return _data_set(
        paired,
        (
            {**_object(index, number, box, box[2] * box[3]), "iscrowd": 0, "score": score}
            for index, image in enumerate(paired.images)
            for number, box, score in zip(
                image.classes.tolist(),
                image.boxes_xywh.tolist(),
                image.scores.tolist(),
                strict=True,
            )
        ),
    )


def _object(index: int, number: int, box_xywh: list[float], area: float) -> dict[str, Any]:
    """In the image of this index."""
    return {"image_id": index + 1, "category_id": number, "bbox": box_xywh, "area": area}


def _data_set(paired: Paired, annotations: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """In COCO's format, with ids from 1 on: the number 0 means "no match" in some versions."""
    return {
        "images": [{"id": index + 1} for index in range(len(paired.images))],
        "categories": [{"id": number, "name": paired.labels[number]} for number in paired.classes],
        "annotations": [{"id": i, **each} for i, each in enumerate(annotations, start=1)],
    }


def _mean(precision: Floats) -> float | None:
    return _or_none(float(np.mean(precision)))


def _or_none(number: float) -> float | None:
    """The library says -1 where there is no object."""
    return None if number < 0 else number
