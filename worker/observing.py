"""What a run reports about its work as it happens: to whoever measures it, or to nobody.

Sources, pipeline and publishers call an Observer; ``worker.health`` has one that measures. Calls
come from several threads, within loops and locks: an observer must neither block nor raise.
"""

from collections.abc import Sequence

from worker.events import Detection, Event
from worker.frames import Frame, FrameBatch, SourceItem

STAGES = ("decode", "queue", "preprocess", "network", "decode_nms", "publish")
"""The steps that a frame goes through, and whose durations are reported."""


class Observer:
    """Takes every report and keeps nothing."""

    def received(self, item: SourceItem) -> None:
        """A source has delivered an item; one call at a time."""

    def replaced(self, frame: Frame) -> None:
        """A frame that waited for the detector gave way to a newer one of its camera."""

    def started(self, batch: FrameBatch) -> None:
        """The detector gets a batch; called in the pipeline's thread."""

    def finished(self, batch: FrameBatch, found: Sequence[Sequence[Detection]]) -> None:
        """What was detected in each frame of a batch is known; called in the pipeline's thread."""

    def stage(self, stage: str, seconds: float) -> None:
        """One of STAGES has taken so long, for one frame or one batch."""

    def published(self, sink: str, events: Sequence[Event], seconds: float) -> None:
        """A sink has taken events, in one write that took so long; called in its thread."""

    def sink_answered(self, sink: str) -> None:
        """A sink is available: it has answered something else than a write."""

    def sink_failed(self, sink: str) -> None:
        """A sink could not be reached, or refused what it was asked."""


NOBODY = Observer()
