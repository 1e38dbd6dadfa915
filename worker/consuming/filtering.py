"""Which events a consumer delivers."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import get_args

from worker.errors import UsageError
from worker.events import CameraState, DetectionsEvent, Event


@dataclass(frozen=True)
class EventFilter:
    """What is asked for: with no filter everything, else only what a filter names.

    ``labels`` and ``score_threshold`` ask for detections events in which one detection has one of
    the labels and a score above the threshold; ``states`` for camera events with these states.
    Events are delivered whole.
    """

    labels: frozenset[str] | None = None
    score_threshold: float | None = None
    states: frozenset[str] | None = None

    @classmethod
    def of(
        cls,
        labels: Collection[str] | None,
        score_threshold: float | None,
        states: Collection[str] | None,
    ) -> "EventFilter":
        """A filter of these arguments. Raises UsageError for those that cannot match."""
        if score_threshold is not None and not 0 <= score_threshold < 1:
            raise UsageError(f"score_threshold: {score_threshold}: expected 0 or more, below 1")
        known = get_args(CameraState)
        found = _names("states", states)
        for state in found or ():
            if state not in known:
                raise UsageError(f"states: unknown state {state!r}: use {', '.join(known)}")
        return cls(_names("labels", labels), score_threshold, found)

    def wants(self, event: Event) -> bool:
        """Whether an event is delivered."""
        wants_detections = self.labels is not None or self.score_threshold is not None
        if not wants_detections and self.states is None:
            return True
        if isinstance(event, DetectionsEvent):
            return wants_detections and self._any_detection(event)
        return self.states is not None and event.data.state in self.states

    def _any_detection(self, event: DetectionsEvent) -> bool:
        threshold = self.score_threshold
        return any(
            (self.labels is None or detection.label in self.labels)
            and (threshold is None or detection.score > threshold)
            for detection in event.data.detections
        )


def _names(argument: str, names: Collection[str] | None) -> frozenset[str] | None:
    if names is None:
        return None
    if isinstance(names, str) or not names:
        raise UsageError(f"{argument}: {names!r}: expected a list of names, or None for all")
    return frozenset(names)
