"""The detector as the pipeline uses it: images in, rounded detections out when they are ready."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ssd_core import Detections, Detector
from ssd_core.errors import SsdError
from worker.errors import DetectorError, UsageError
from worker.events import BOX_DECIMALS, SCORE_DECIMALS, Detection, ModelInfo
from worker.pipeline.filtering import EVERYTHING, DetectionFilter


class FrameDetector:
    """Detects, keeps what each camera publishes, and rounds, for equal bytes in equal runs."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    @property
    def model(self) -> ModelInfo:
        """The model's name and the digest of its weights."""
        return ModelInfo(name=self._detector.spec.name, digest=self._detector.digest)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels that images need not be scaled from."""
        return self._detector.spec.image_size

    @property
    def default_batch(self) -> int:
        """Frames that are best taken at once."""
        return self._detector.default_batch

    @property
    def labels(self) -> tuple[str, ...]:
        """All the model's labels by class id; 0 is the background."""
        return self._detector.spec.labels

    @property
    def default_threshold(self) -> float:
        """The model's own score threshold."""
        return self._detector.spec.score_threshold

    def lowest_threshold(self, thresholds: Collection[float | None]) -> float:
        """The lowest of some cameras' thresholds, where None stands for the model's own."""
        default = self.default_threshold
        return min((default if t is None else t for t in thresholds), default=default)

    @property
    def score_threshold(self) -> float:
        """Only scores above it are detected; cameras may ask for more by their filters."""
        return self._detector.score_threshold

    @score_threshold.setter
    def score_threshold(self, threshold: float) -> None:
        self._detector.score_threshold = threshold

    @property
    def affecting(self) -> dict[str, str | float]:
        """What detections depend on besides the model's weights."""
        return {
            "device": self._detector.hardware,
            "precision": str(self._detector.dtype).removeprefix("torch."),
            "score_threshold": self._detector.score_threshold,
            "implementation": self._detector.implementation,
            "scaled_by": ("detector" if self.takes_planes else "source")
            + ("" if self.antialias else ", unfiltered"),
        }

    @property
    def takes_planes(self) -> bool:
        """Whether it takes pictures as YuvImages, and scales them itself."""
        return self._detector.takes_yuv

    @property
    def antialias(self) -> bool:
        """Whether pictures are to be filtered when they are scaled down for it."""
        return self._detector.spec.antialias

    @property
    def gpu(self) -> int:
        """Index of its CUDA device."""
        return self._detector.device.index or 0

    @property
    def works_ahead(self) -> bool:
        """Whether it computes while its caller does other work, on a device of its own."""
        return self._detector.works_ahead

    def report_stages(self, on_stage: Callable[[str, float], object]) -> None:
        """Call ``on_stage`` with each step of a batch and the seconds it took, from any thread."""
        self._detector.on_stage = on_stage

    @property
    def gpu_memory_bytes(self) -> int | None:
        """Memory that this process holds on its GPU; None on a CPU."""
        return self._detector.gpu_memory_bytes

    @property
    def place(self) -> tuple[str, str]:
        """Device and precision, such as cuda:0 and bf16."""
        precision = str(self._detector.dtype).removeprefix("torch.")
        return str(self._detector.device), precision

    def compute_alike(self, batch: int) -> int:
        """Make results independent of the number of cores; returns how many frames go together."""
        return self._detector.compute_alike(batch)

    def warm_up(self, batch: int) -> None:
        """Prepare for batches of up to ``batch`` images before the first frame comes."""
        with _gpu_failure():
            self._detector.warm_up(batch)

    def __call__(
        self, images: list[Any], filters: Sequence[DetectionFilter] | None = None
    ) -> Callable[[], list[list[Detection]]]:
        """Start on the images; the function returned waits for the detections of each, best first.

        An image is an (H, W, 3) RGB array, or a YuvImage for a detector that takes planes;
        ``filters`` has one for each and says which of its detections to return; None: all. Raises
        DetectorError if a GPU has no memory left for one image.
        """
        filters = [EVERYTHING] * len(images) if filters is None else filters
        with _device_errors():
            wait = self._detector.submit(images)

        def finish() -> list[list[Detection]]:
            with _device_errors():
                return _published(wait(), filters)

        return finish


def _published(
    found: list[Detections], filters: Sequence[DetectionFilter]
) -> list[list[Detection]]:
    """The detections of each image to publish, alike in equal runs."""
    if not found:
        return []
    scores = rounded(torch.cat([image.scores for image in found]), SCORE_DECIMALS)
    boxes = rounded(torch.cat([image.boxes_normalised for image in found]), BOX_DECIMALS)
    labels = torch.cat([image.labels for image in found]).tolist()
    published: list[list[Detection]] = []
    start = 0
    for image, wanted in zip(found, filters, strict=True):
        published.append(
            [
                Detection(
                    label=image.names[position],
                    class_id=labels[start + position],
                    score=scores[start + position],
                    box=tuple(boxes[start + position]),
                )
                for position in wanted.kept(image)
            ]
        )
        start += len(image)
    return published


def rounded(values: torch.Tensor, decimals: int) -> list[Any]:
    """The nested lists of an fp32 tensor, each value as ``round(value, decimals)`` gives it.

    NumPy multiplies, rounds half to even and divides, in a tenth of the time. The product is exact
    in fp64, so it meets the same ties: fp32 has 24 significant bits, 10**5 without its twos 12.
    """
    found: list[Any] = np.round(values.numpy().astype(np.float64), decimals).tolist()
    return found


@contextmanager
def _device_errors() -> Iterator[None]:
    """What a GPU may do at any time, as DetectorError."""
    try:
        with _gpu_failure():
            yield
    except SsdError as error:
        raise DetectorError(str(error)) from error


@contextmanager
def _gpu_failure() -> Iterator[None]:
    """The end of a GPU, for this process, as DetectorError."""
    try:
        yield
    except torch.AcceleratorError as error:  # nothing runs on it any more, in this process
        reason = str(error).partition("\n")[0]
        raise DetectorError(f"the GPU failed ({reason}): start the worker again") from error


def check_labels(labels: Collection[str], known: Collection[str], model: str) -> None:
    """Raise UsageError unless the model has every label."""
    unknown = [label for label in labels if label not in known]
    if unknown:
        raise UsageError(
            f"--labels: {model} does not know {', '.join(unknown)}: it knows {', '.join(known)}"
        )
