"""Which frames to show as examples: spread over the time, and with every label that they can.

Takes detections events in order; keeps a few. Knows nothing of pictures.
"""

import math
from collections.abc import Iterable
from typing import TypeAlias

from worker.events import DetectionsEvent

Example: TypeAlias = tuple[float, DetectionsEvent]
"""A frame, and when it was."""

MOST_SLOTS = 12
EXAMPLES = 6


class Examples:
    """The frame with most detections of each slot of time, and the surest one of each label."""

    def __init__(self) -> None:
        self.first: DetectionsEvent | None = None
        self._width = 1.0
        """Of a slot; doubles when there are too many."""
        self._slots: dict[int, Example] = {}
        self._surest: dict[str, tuple[float, float, DetectionsEvent]] = {}
        """By label: score, time and frame."""

    def add(self, at: float, event: DetectionsEvent, labels: int) -> None:
        """Consider a frame. ``labels``: of how many labels to keep the surest frame at most."""
        self.first = self.first or event
        if not event.data.detections:
            return
        for detection in event.data.detections:
            best = self._surest.get(detection.label)
            if best is None and len(self._surest) >= labels:
                continue
            if best is None or detection.score > best[0]:
                self._surest[detection.label] = (detection.score, at, event)
        self._keep(int(at / self._width), at, event)
        while len(self._slots) > MOST_SLOTS:
            self._width *= 2
            slots, self._slots = self._slots, {}
            for earlier, kept in slots.values():
                self._keep(int(earlier / self._width), earlier, kept)

    def chosen(self, labels: list[str]) -> list[DetectionsEvent]:
        """At most ``EXAMPLES`` frames in order of time; ``labels``: those to show, first first."""
        found: dict[int, Example] = {}
        seen: set[str] = set()
        for label in labels:
            if label in self._surest and label not in seen and len(found) < EXAMPLES:
                _, at, event = self._surest[label]
                found[id(event)] = (at, event)
                seen |= {detection.label for detection in event.data.detections}
        others = [slot for slot in self._slots.values() if id(slot[1]) not in found]
        while others and len(found) < EXAMPLES:
            # The one farthest from those that there are.
            best = max(others, key=lambda slot: _distance(slot[0], found.values()))
            others.remove(best)
            found[id(best[1])] = best
        return [event for _, event in sorted(found.values(), key=lambda pair: pair[0])]

    def _keep(self, slot: int, at: float, event: DetectionsEvent) -> None:
        kept = self._slots.get(slot)
        if kept is None or len(event.data.detections) > len(kept[1].data.detections):
            self._slots[slot] = (at, event)


def _distance(at: float, others: Iterable[Example]) -> float:
    return min((abs(at - other) for other, _ in others), default=math.inf)
