"""Precision and recall at a score threshold, and the threshold that balances them.

Rankings at IoU 0.5 in. A detector that runs at a threshold reports exactly the detections above it:
neither matching nor non-maximum suppression lets a lower score change a higher one's fate.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssd_core.evaluation.matches import Ranking
from ssd_core.evaluation.paired import Bools, Floats


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold gives. None where a share is one of nothing."""

    score_threshold: float
    """A detection counts if its score is above it."""
    precision: float | None
    """The share of the detections that are true; None without detections."""
    recall: float | None
    """The share of the objects that are found; None without objects."""
    f1: float | None
    """The harmonic mean of both; None without objects."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A ranking at IoU 0.5, ignored detections left out."""

    scores: Floats
    """(D,) falling."""
    is_true: Bools
    """(D,)"""
    objects: int
    """To be found."""

    @classmethod
    def of(cls, rankings: Sequence[Ranking]) -> "Curve":
        """That of one class, or of several together."""
        scores = np.concatenate([r.scores[~r.is_ignored[0]] for r in rankings])
        is_true = np.concatenate([r.is_true[0][~r.is_ignored[0]] for r in rankings])
        order = np.argsort(-scores, kind="stable")
        objects = sum(int(r.to_be_found.sum()) for r in rankings)
        return cls(scores[order], is_true[order], objects)

    @property
    def precision(self) -> Floats:
        """(D,) of the detections up to each."""
        precision: Floats = np.cumsum(self.is_true) / np.arange(1, len(self.scores) + 1)
        return precision

    @property
    def recall(self) -> Floats:
        """(D,) of the detections up to each; there is at least one object."""
        recall: Floats = np.cumsum(self.is_true) / self.objects
        return recall

    def at(self, score_threshold: float) -> OperatingPoint:
        """What the threshold gives; compared in fp32, as the detector does."""
        count = int(np.count_nonzero(self.scores > np.float64(np.float32(score_threshold))))
        true = int(np.count_nonzero(self.is_true[:count]))
        return OperatingPoint(
            score_threshold,
            true / count if count else None,
            true / self.objects if self.objects else None,
            2 * true / (count + self.objects) if self.objects else None,
        )

    def balanced(self, floor: float = 0.0) -> OperatingPoint | None:
        """The point of the highest F1, the higher threshold of equals; None if nothing is true.

        ``floor``: the threshold that the detections were made at.
        """
        if not self.objects or not self.is_true.any():
            return None
        f1 = 2 * np.cumsum(self.is_true) / (np.arange(1, len(self.scores) + 1) + self.objects)
        # Equal scores are kept or dropped together.
        f1[:-1][self.scores[:-1] == self.scores[1:]] = -1
        last = int(np.argmax(f1))
        below = self.scores[last + 1] if last + 1 < len(self.scores) else floor
        return self.at(_between(float(below), float(self.scores[last])))


def _between(low: float, high: float) -> float:
    """A number with few digits that ``high`` is above and ``low`` is not."""
    middle = (low + high) / 2
    for decimals in range(2, 8):
        rounded = round(middle, decimals)
        if np.float32(low) <= np.float32(rounded) < np.float32(high):
            return rounded
    return low
