import json
import logging

import pytest
from hypothesis import given, strategies as st

from tests.events import detections_event
from worker.consuming.entries import Entry, EventReader, entries_of, id_before, parse_id

IDS = st.tuples(st.integers(0, 2**63), st.integers(0, 2**64 - 1))
JSON = detections_event().to_json()


def text_of(entry_id):
    return f"{entry_id[0]}-{entry_id[1]}"


def entry(**fields):
    return Entry("ssd:{gate}:detections", b"5-1", {k.encode(): v for k, v in fields.items()})


@given(IDS)
def test_ids_are_numbers(entry_id):
    assert parse_id(text_of(entry_id)) == parse_id(text_of(entry_id).encode()) == entry_id


def test_an_id_without_a_counter_is_the_first_of_its_millisecond():
    assert parse_id("17") == (17, 0)


@given(IDS.filter(lambda entry_id: entry_id > (0, 0)))
def test_there_is_no_id_between_one_and_the_one_before_it(entry_id):
    milliseconds, counter = parse_id(id_before(text_of(entry_id)))
    assert (milliseconds, counter) < entry_id
    assert entry_id in ((milliseconds, counter + 1), (milliseconds + 1, 0))
    assert counter < 2**64


def test_before_the_first_id_there_is_none():
    assert id_before("0-0") == "0-0"


@pytest.mark.parametrize(
    "reply",
    [
        [[b"a", [(b"1-0", {b"k": b"v"})]], [b"b", [(b"2-0", None)]]],
        {b"a": [[(b"1-0", {b"k": b"v"})]], b"b": [[(b"2-0", None)]]},
    ],
    ids=["RESP2", "RESP3"],
)
def test_replies_of_both_protocols_read_alike(reply):
    assert entries_of(reply) == [("a", b"1-0", {b"k": b"v"}), ("b", b"2-0", None)]


@pytest.mark.parametrize("reply", [None, [], {}, [[b"a", []]], {b"a": [[]]}])
def test_a_reply_without_entries_has_none(reply):
    assert entries_of(reply) == []


def test_an_event_knows_where_it_was_read():
    event = EventReader().event(entry(event=JSON.encode()))
    assert event == detections_event()
    assert event.entry_id == "5-1"
    assert event.place == ("ssd:{gate}:detections", "5-1")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "was trimmed"),
        ({"id": b"1"}, "holds no valid event"),
        ({"event": b"{"}, "holds no valid event"),
        ({"event": b"\xff"}, "holds no valid event"),
        ({"event": b"[]"}, "holds no valid event"),
        ({"event": b'{"type": 1}'}, "holds no valid event"),
        ({"event": b'{"type": "ssd.camera.v1"}'}, "holds no valid event"),
        ({"event": b"[" * 100_000}, "holds no valid event"),
    ],
)
def test_an_entry_without_an_event_is_reported_each_time(fields, problem, caplog):
    reader = EventReader()
    for _ in range(2):
        assert reader.event(entry(**fields)) is None
    line = f"skipping entry 5-1 of ssd:{{gate}}:detections: it {problem}"
    assert caplog.messages == [line] * 2


def test_a_type_that_comes_later_is_reported_once(caplog):
    reader = EventReader()
    for event_type in ("ssd.track.v1", "ssd.track.v1", "ssd.camera.v2", "ssd.track.v1"):
        text = json.dumps(json.loads(JSON) | {"type": event_type})
        assert reader.event(entry(event=text.encode())) is None
    assert caplog.messages == [
        f"skipping events of type '{name}', which this version does not know: update it to get them"
        for name in ("ssd.track.v1", "ssd.camera.v2")
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_a_type_is_reported_in_one_short_line(caplog):
    text = json.dumps(json.loads(JSON) | {"type": "a\nb" * 1000})
    EventReader().event(entry(event=text.encode()))
    assert "\n" not in caplog.messages[0]
    assert len(caplog.messages[0]) < 250
