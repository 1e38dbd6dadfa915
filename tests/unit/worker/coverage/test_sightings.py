"""Events as JSON say what they say as objects, and what is not an event is refused."""

import json

import pytest

from tests.events import camera_event, detections_event
from tests.unit.worker.coverage.told import EPOCH, at, frame, state
from worker.coverage import Coverage
from worker.coverage.sightings import parse_sighting, sighting_of
from worker.coverage.timeline import Timeline

EVENTS = [
    state(1, "down", "stall", seq=3, frames=40, dropped=5, published=2),
    frame(1.25, seq=4, index=40, skipped=2, dropped=1, published=7200),
    frame(1.25, seq=4, clock="rtcp", published=0.5),
    detections_event(mode="replay"),
    camera_event().model_copy(update={"time": None}),
]


@pytest.mark.parametrize("event", EVENTS, ids=range(len(EVENTS)))
def test_json_says_what_the_event_says(event):
    event._place = event.place or ("stream", "5-0")
    assert parse_sighting(event.to_json().encode(), event.entry_id) == sighting_of(event)


def without(event, *names):
    content = json.loads(event.to_json())
    for name in names:
        content["data"].pop(name)
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b'{"type": "ssd.camera.v1"}',
        frame(1, seq=1).to_json().encode()[:-20],
        without(frame(1, seq=1), "frame_index"),
        without(state(1), "state"),
        without(state(1), "seq"),
        state(1).to_json().replace("2026-", "soon ").encode(),
        state(1).to_json().replace('"epoch":', '"epoch":1e400,"e":').encode(),
        state(1).to_json().replace('"epoch":', '"epoch":1' + "0" * 400 + ',"e":').encode(),
        state(1).to_json().replace('"seq":0', '"seq":-1').encode(),
    ],
)
def test_what_is_not_an_event_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011
        parse_sighting(text, "5-0")


def test_events_of_a_later_version_vouch_for_their_time_and_number():
    """They stand in the same stream, under the same numbers."""
    timeline = Timeline()
    for event in [state(0, reason="connected"), frame(1, seq=1), frame(2, seq=2), frame(3, seq=3)]:
        text = event.to_json()
        if event.data.seq == 2:
            text = text.replace("ssd.detections.v1", "ssd.track.v1")
        entry_id = f"{EPOCH + 1000 * event.data.seq}-0"
        timeline.add(parse_sighting(text.encode(), entry_id))
    (only,) = timeline.intervals(at(0).timestamp(), at(3).timestamp())
    assert (only.state, only.frames_analysed) == ("watched", 3)


def test_an_event_with_mad_numbers_is_left_out():
    coverage = Coverage()
    coverage.add(state(0, epoch=10**400))
    coverage.add(state(0, seq=10**400))
    assert coverage.cameras == []


def test_a_coverage_knows_the_cameras_that_it_was_told_of():
    coverage = Coverage()
    coverage.add(state(0))
    coverage.add(detections_event("walkway", mode="replay"))
    assert coverage.cameras == ["gate"]
    assert coverage.knows("gate")
    assert not coverage.knows("walkway")
