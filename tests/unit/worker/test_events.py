import copy
import json
import pickle

import pytest
from hypothesis import given, strategies as st

from tests.events import camera_event, detections_event
from worker.events import CameraEvent, Detection, DetectionsEvent, parse_event


def test_a_detections_event_has_the_fields_of_the_schema():
    event = json.loads(detections_event(seq=3).to_json())
    assert list(event) == [
        "specversion", "id", "source", "type", "time", "datacontenttype", "data",
    ]  # fmt: skip
    assert event["specversion"] == "1.0"
    assert event["time"] == "2026-01-01T00:00:00Z"
    assert list(event["data"]) == [
        "camera_id", "mode", "epoch", "seq", "frame_index", "pts", "time_base", "pts_seconds",
        "clock", "width", "height", "skipped", "dropped", "model", "detections",
    ]  # fmt: skip
    assert event["data"]["detections"] == [
        {"label": "Person", "class_id": 4, "score": 0.9, "box": [0.1, 0.2, 0.3, 0.4]}
    ]


@pytest.mark.parametrize("event", [detections_event(), camera_event(state="down", reason="stall")])
def test_an_event_survives_a_round_trip_through_json(event):
    parsed = parse_event(event.to_json())
    assert parsed == event
    assert type(parsed) is type(event)
    assert parsed.to_json() == event.to_json()


def test_the_type_decides_the_class():
    assert isinstance(parse_event(detections_event().to_json()), DetectionsEvent)
    assert isinstance(parse_event(camera_event().to_json()), CameraEvent)


def test_fields_that_a_later_version_adds_are_ignored():
    text = json.loads(detections_event().to_json()) | {"traceparent": "00-ab"}
    text["data"]["speed"] = 3
    assert parse_event(json.dumps(text)) == detections_event()


@given(st.binary() | st.text() | st.dictionaries(st.text(), st.integers()).map(json.dumps))
def test_anything_but_an_event_raises_value_error(text):
    with pytest.raises(ValueError, match="validation error"):
        parse_event(text)


@given(
    st.lists(st.floats(0, 1).map(lambda x: round(x, 5)), min_size=4, max_size=4),
    st.floats(0, 1).map(lambda x: round(x, 4)),
)
def test_rounded_numbers_are_written_without_extra_digits(box, score):
    detection = Detection(label="Car", class_id=23, score=score, box=tuple(box))
    parsed = json.loads(detections_event(detections=(detection,)).to_json())
    found = parsed["data"]["detections"][0]
    assert (found["box"], found["score"]) == (box, score)


# Where an event was read


def read_from(place, event=None):
    return parse_event((event or detections_event()).to_json(), place)


def test_an_event_that_was_read_from_redis_knows_its_entry():
    event = read_from(("ssd:{gate}:detections", "5-1"))
    assert event.entry_id == "5-1"
    assert event.place == ("ssd:{gate}:detections", "5-1")


def test_an_event_that_was_not_read_from_redis_has_no_entry():
    for event in (detections_event(), parse_event(camera_event().to_json())):
        assert event.entry_id is None
        assert event.place is None


@pytest.mark.parametrize("made", [detections_event(), camera_event()])
def test_where_an_event_was_read_is_no_part_of_it(made):
    one, other = read_from(("s", "1-0"), made), read_from(("s", "2-0"), made)
    assert one == other == made
    assert len({one, other, made}) == 1
    assert one.to_json() == made.to_json()
    assert "entry_id" not in one.model_dump()
    assert "entry_id" not in json.dumps(type(made).model_json_schema())


def test_events_that_differ_are_not_equal():
    assert detections_event(seq=1) != detections_event(seq=2)
    assert detections_event() != camera_event()
    assert detections_event() != detections_event().to_json()


def test_an_event_cannot_claim_an_entry_in_its_json():
    text = json.loads(detections_event().to_json()) | {"entry_id": "7-0", "_place": ["s", "7-0"]}
    assert parse_event(json.dumps(text)).entry_id is None


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e)),
              lambda e: e.model_copy()],
    ids=["copy", "deepcopy", "pickle", "model_copy"],
)  # fmt: skip
def test_a_copy_knows_the_entry_too(again):
    event = read_from(("s", "5-1"))
    assert again(event) == event
    assert again(event).entry_id == "5-1"
