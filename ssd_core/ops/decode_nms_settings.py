"""What decode_nms is asked for: one object, checked once, for the op and all its implementations.

Knows neither tensors nor models; a model's settings are those of its spec
(``ModelSpec.decode_settings``).
"""

import math
from dataclasses import dataclass
from typing import Any

from ssd_core.box_coder import BOX_WEIGHTS

ACTIVATIONS = ("softmax", "sigmoid")


@dataclass(frozen=True)
class DecodeSettings:
    """How raw head outputs become detections. Raises ValueError for values that make no sense.

    The fields stand in the order of the op's schema.
    """

    activation: str
    """``softmax`` or ``sigmoid``: what turns logits into scores."""
    score_threshold: float
    """A candidate has a score above it; at least 0."""
    iou_threshold: float
    """A box is suppressed if its IoU with a better one of its class is above it."""
    candidates_per_class: int
    """Candidates of a class, the best, that NMS looks at; at least 1."""
    max_detections: int
    """Detections of an image, the best; at least 0."""
    box_weights: tuple[float, ...] = BOX_WEIGHTS
    """Four numbers that the offsets x, y, w, h are divided by."""

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be {' or '.join(map(repr, ACTIVATIONS))}, not {self.activation!r}"
            )
        if not self.score_threshold >= 0:  # true for NaN, too
            raise ValueError(f"score_threshold must be at least 0, not {self.score_threshold}")
        if math.isnan(self.iou_threshold):
            raise ValueError("iou_threshold must be a number, not NaN")
        if self.candidates_per_class < 1:
            raise ValueError(
                f"candidates_per_class must be at least 1, not {self.candidates_per_class}"
            )
        if self.max_detections < 0:
            raise ValueError(f"max_detections must be at least 0, not {self.max_detections}")
        if len(self.box_weights) != 4:
            raise ValueError(f"box_weights must be 4 numbers, not {len(self.box_weights)}")

    def flattened(self) -> tuple[Any, ...]:
        """The fields as the op takes them after its tensors."""
        return (
            self.activation,
            self.score_threshold,
            self.iou_threshold,
            self.candidates_per_class,
            self.max_detections,
            list(self.box_weights),
        )

    @classmethod
    def rebuilt(cls, *flattened: Any) -> "DecodeSettings":
        """The settings that ``flattened`` took apart."""
        *others, box_weights = flattened
        fields: tuple[Any, ...] = (*others, tuple(box_weights))
        return cls(*fields)
