"""The detector as the pipeline wants it: images in, rounded event detections out."""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from ssd_core import Detector
from worker.errors import UsageError
from worker.events import BOX_DECIMALS, SCORE_DECIMALS, Detection, ModelInfo


class FrameDetector:
    """Detects, keeps the labels asked for, and rounds, so that equal runs give equal bytes."""

    def __init__(self, detector: Detector, labels: Collection[str] | None = None) -> None:
        """``labels``: publish only these; None: all. Raises UsageError for unknown ones."""
        known = detector.spec.labels[1:]
        if labels is not None:
            check_labels(labels, known, detector.spec.name)
        self._detector = detector
        self._labels = frozenset(known if labels is None else labels)

    @property
    def model(self) -> ModelInfo:
        """The model's name and the digest of its weights."""
        return ModelInfo(name=self._detector.spec.name, digest=self._detector.digest)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels that images need not be scaled from."""
        return self._detector.spec.image_size

    @property
    def labels(self) -> tuple[str, ...]:
        """All the model's labels by class id; 0 is the background."""
        return self._detector.spec.labels

    @property
    def affecting(self) -> dict[str, str | float]:
        """What detections depend on beside the model's weights."""
        return {
            "device": self._detector.device.type,
            "precision": str(self._detector.dtype).removeprefix("torch."),
            "score_threshold": self._detector.score_threshold,
        }

    def __call__(self, images: list[npt.NDArray[np.uint8]]) -> list[list[Detection]]:
        """The detections of each (H, W, 3) RGB image, best first."""
        return [
            [
                Detection(
                    label=name,
                    class_id=class_id,
                    score=round(score, SCORE_DECIMALS),
                    box=tuple(round(edge, BOX_DECIMALS) for edge in box),
                )
                for name, class_id, score, box in zip(
                    found.names,
                    found.labels.tolist(),
                    found.scores.tolist(),
                    found.boxes_normalised.tolist(),
                    strict=True,
                )
                if name in self._labels
            ]
            for found in self._detector.detect(images)
        ]


def check_labels(labels: Collection[str], known: Collection[str], model: str) -> None:
    """Raise UsageError unless the model has every label."""
    unknown = [label for label in labels if label not in known]
    if unknown:
        raise UsageError(
            f"--labels: {model} does not know {', '.join(unknown)}: it knows {', '.join(known)}"
        )
