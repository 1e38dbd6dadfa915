"""One evaluation: detections and labelled images in, all numbers of them out.

Puts the metrics together; what each means stands in ``coco``, ``voc07`` and ``operating_points``.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from ssd_core.evaluation.coco import coco_numbers
from ssd_core.evaluation.matches import Ranking, rank
from ssd_core.evaluation.operating_points import Curve, OperatingPoint
from ssd_core.evaluation.paired import Paired, pair
from ssd_core.evaluation.voc07 import voc07_precision
from ssd_core.found import Detections
from ssd_core.training.data import DataSet

Metric: TypeAlias = Literal["coco", "voc07"]


@dataclass(frozen=True)
class ClassEvaluation:
    """The numbers of one class."""

    objects: int
    """To be found: those that are ignored do not count."""
    AP: float | None
    """By the metric; None without objects, and left out of the mean."""
    AP50: float | None
    """At IoU 0.5, interpolated over every recall; None without objects, and for VOC's metric."""
    working: OperatingPoint | None
    """At the working threshold; None if there is none."""
    balanced: OperatingPoint | None
    """Of the highest F1; None if nothing is found."""


@dataclass(frozen=True)
class Evaluation:
    """The numbers of a data set."""

    metric: Metric
    images: int
    objects: int
    """To be found, in the classes evaluated."""
    numbers: dict[str, float | None]
    """COCO's twelve (``AP``, ``AP50``, ..., ``AR_large``); for VOC's metric ``AP`` alone. None
    where there are no objects of a size."""
    per_class: dict[str, ClassEvaluation]
    """By label, those without objects among them."""
    working: OperatingPoint | None
    """Over all classes, at the working threshold; None if there is none."""
    balanced: OperatingPoint | None
    """Over all classes, of the highest F1; None if nothing is found."""
    unknown: tuple[str, ...]
    """Labels of the data set that the model does not have: left out."""
    paired: Paired = field(repr=False)
    rankings: tuple[Ranking, ...] = field(repr=False)
    """One per class evaluated."""

    @property
    def AP(self) -> float:
        """The mean over the classes that have objects."""
        average_precision = self.numbers["AP"]
        assert average_precision is not None, "there is an object to be found"
        return average_precision

    def as_json(self) -> dict[str, Any]:
        """All numbers as one JSON object, without NaN: None (null) is for what does not exist."""
        shared = {"working": _as_json(self.working), "balanced": _as_json(self.balanced)}
        return {
            "metric": self.metric,
            "images": self.images,
            "objects": self.objects,
            **self.numbers,
            **shared,
            "per_class": {label: asdict(own) for label, own in self.per_class.items()},
            "unknown_labels": list(self.unknown),
        }


def evaluate(
    detections: Sequence[Detections],
    data_set: DataSet,
    *,
    metric: Metric = "coco",
    known: Collection[str] | None = None,
    score_threshold: float | None = None,
    floor: float = 0.0,
) -> Evaluation:
    """How well the detections of each image, in the data set's order, find its objects.

    ``metric``: ``coco`` (AP over IoU 0.5 to 0.95) or ``voc07`` (11 points at IoU 0.5). Classes meet
    by name; ``known`` are the model's labels: classes of the data set that are not among them are
    left out, and so are the model's that the data set lacks. ``score_threshold``: what precision
    and recall are given for. ``floor``: the threshold that the detections were made at, which
    should be low, such as 0.01: AP looks at every recall.

    An ignored object (COCO's crowds, VOC's difficult) is neither to be found nor false if found.

    Raises EvaluationError if there is nothing to find, and for COCO's metric without
    faster-coco-eval.
    """
    paired = pair(detections, data_set, known)
    rankings = tuple(rank(paired, number) for number in paired.classes)
    numbers: dict[str, float | None]
    if metric == "coco":
        found = coco_numbers(paired)
        numbers, precision = found.numbers, found.per_class
    else:
        by_class = voc07_precision(paired)
        precision = {number: (by_class[number], None) for number in paired.classes}
        present = [each for each in by_class.values() if each is not None]
        numbers = {"AP": sum(present) / len(present)}
    curves = [Curve.of([ranking]) for ranking in rankings]
    overall = Curve.of(rankings)
    per_class = {
        paired.labels[number]: ClassEvaluation(
            curve.objects,
            *precision[number],
            None if score_threshold is None else curve.at(score_threshold),
            curve.balanced(floor),
        )
        for number, curve in zip(paired.classes, curves, strict=True)
    }
    return Evaluation(
        metric,
        len(data_set.images),
        overall.objects,
        numbers,
        per_class,
        None if score_threshold is None else overall.at(score_threshold),
        overall.balanced(floor),
        tuple(label for label in data_set.labels[1:] if label not in per_class),
        paired,
        rankings,
    )


def _as_json(point: OperatingPoint | None) -> dict[str, Any] | None:
    return None if point is None else asdict(point)
