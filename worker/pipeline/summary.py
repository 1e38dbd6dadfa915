"""What a run did, in numbers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from worker.events import Detection
from worker.frames import FrameBatch, StreamUp


@dataclass
class Summary:
    """Totals of a run over all its cameras, or of one recording."""

    frames: int = 0
    dropped: int = 0
    events: int = 0
    detections: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    interrupted: bool = False
    """Whether it was stopped before its sources ended."""
    unpublished: int = 0
    """Events that were neither published nor spooled before the worker had to exit."""

    def add(self, batch: FrameBatch, found: Sequence[Sequence[Detection]]) -> None:
        """Count a batch and what was detected in each of its frames."""
        self.frames += len(batch.frames)
        self.dropped += sum(i.dropped for i in batch.items if not isinstance(i, StreamUp))
        for detections in found:
            self.detections.update(detection.label for detection in detections)
