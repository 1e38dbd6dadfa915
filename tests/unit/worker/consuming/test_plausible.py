"""Which events can be computed with."""

import pytest

from tests.events import PERSON, camera_event, detections_event
from worker.consuming.plausible import is_plausible
from worker.events import CameraEvent


def changed(event, **data):
    return event.model_copy(update={"data": event.data.model_copy(update=data)})


def with_detection(**changes):
    return detections_event(detections=(PERSON, PERSON.model_copy(update=changes)))


def test_what_a_worker_writes_is_plausible():
    assert is_plausible(camera_event())
    assert is_plausible(detections_event())
    assert is_plausible(changed(detections_event(), pts=None, pts_seconds=None))
    assert is_plausible(changed(detections_event(), pts=-5, pts_seconds=-0.2))
    assert is_plausible(with_detection(box=(-0.1, 0.0, 1.2, 1.0), score=1.0))


@pytest.mark.parametrize("value", [-1, 2**53, 10**400])
@pytest.mark.parametrize("event", [detections_event(), camera_event()], ids=lambda e: e.type)
def test_counts_are_counts(event, value):
    names = ["epoch", "seq", "dropped"]
    names += ["frames"] if isinstance(event, CameraEvent) else [
        "frame_index", "skipped", "width", "height",
    ]  # fmt: skip
    assert not any(is_plausible(changed(event, **{name: value})) for name in names)


def test_times_boxes_and_scores_have_limits():
    for pts in (2**63, -(10**30)):
        assert not is_plausible(changed(detections_event(), pts=pts))
    for seconds in (1e12, -1e300):
        assert not is_plausible(changed(detections_event(), pts_seconds=seconds))
    for box in ((0, 0, 0, 1e308), (-1e7, 0, 0, 0)):
        assert not is_plausible(with_detection(box=box))
    for score in (-0.1, 1.1, 1e308):
        assert not is_plausible(with_detection(score=score))
