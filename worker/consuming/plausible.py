"""Events that can be computed with: a stream may hold what no worker has written.

The schema allows any number, and a sum, a time or a place of 400 digits is an error in whatever is
made of it.
"""

from worker.events import DetectionsEvent, Event

LARGEST_COUNT = 2**53
"""Whole numbers up to here are exact as floating-point numbers, too."""
LATEST_SECONDS = 1e12
"""30,000 years."""
FARTHEST = 1e6
"""How many pictures wide a box may lie outside of its picture."""


def is_plausible(event: Event) -> bool:
    """Whether all numbers of an event are such as a worker writes."""
    if not isinstance(event, DetectionsEvent):
        state = event.data
        return _are_counts([state.epoch, state.seq, state.dropped, state.frames])
    frame = event.data
    counts = [frame.epoch, frame.seq, frame.dropped]
    return (
        _are_counts([*counts, frame.frame_index, frame.skipped, frame.width, frame.height])
        and (frame.pts is None or abs(frame.pts) < 2**63)
        and (frame.pts_seconds is None or abs(frame.pts_seconds) < LATEST_SECONDS)
        and all(abs(side) < FARTHEST for each in frame.detections for side in each.box)
        and all(0 <= each.score <= 1 for each in frame.detections)
    )


def _are_counts(numbers: list[int]) -> bool:
    return all(0 <= number < LARGEST_COUNT for number in numbers)
