"""What a stream holds now: read to its end, and its newest events."""

from contextlib import closing

import pytest

from tests.events import camera_event, detections_event
from worker.consuming import history
from worker.consuming.history import stored_entries
from worker.consuming.latest import LOOK_BACK, newest_events, stored_snapshot
from worker.errors import SinkError, SinkUnavailable, UsageError
from worker.keys import Keys
from worker.sinks.redis_stream import RedisStreamSink

STREAM = "ssd:{gate}:detections"


def publish(server, *events):
    with closing(RedisStreamSink(server.url)) as sink:
        sink.publish(events)


def stored(server, camera_id="gate", *, replay=False):
    return stored_entries(server.url, Keys(), camera_id, replay=replay)


@pytest.mark.parametrize("page", [1, 3, 7, 100])
def test_every_entry_is_read_once_up_to_the_last_one_that_there_was(
    redis_server, monkeypatch, page
):
    monkeypatch.setattr(history, "READ_COUNT", page)
    publish(redis_server, *(detections_event(seq=n) for n in range(7)))
    entries = stored(redis_server)
    first = next(entries)
    publish(redis_server, detections_event(seq=7))
    ids = [entry.entry_id for entry in (first, *entries)]
    assert ids == [entry_id for entry_id, _ in redis_server.client.xrange(STREAM)][:7]


def test_what_is_trimmed_meanwhile_is_missing_and_ends_nothing(valkey_server, monkeypatch):
    monkeypatch.setattr(history, "READ_COUNT", 2)
    publish(valkey_server, *(detections_event(seq=n) for n in range(8)))
    entries = stored(valkey_server)
    next(entries)
    valkey_server.client.xtrim(STREAM, maxlen=2, approximate=False)
    assert len(list(entries)) == 1 + 2


def test_a_stream_that_is_emptied_or_deleted_meanwhile_ends(valkey_server, monkeypatch):
    monkeypatch.setattr(history, "READ_COUNT", 2)
    publish(valkey_server, *(detections_event(seq=n) for n in range(8)))
    entries = stored(valkey_server)
    next(entries)
    valkey_server.client.delete(STREAM)
    assert len(list(entries)) == 1
    publish(valkey_server, camera_event("yard"))
    valkey_server.client.xtrim("ssd:{yard}:detections", maxlen=0, approximate=False)
    assert list(stored(valkey_server, "yard")) == []


def test_a_camera_without_a_stream_is_one_line_with_those_that_there_are(valkey_server):
    with pytest.raises(UsageError, match=r"gate: .* there is no camera yet"):
        list(stored(valkey_server))
    publish(valkey_server, camera_event("yard"))
    for server_has in ("nothing", "another type"):
        if server_has == "another type":
            valkey_server.client.set(STREAM, "x")
        with pytest.raises(UsageError, match=r"gate: .* there are yard"):
            list(stored(valkey_server))
    with pytest.raises(UsageError, match="there is a camera of this name: leave out --replay"):
        list(stored(valkey_server, "yard", replay=True))


def test_a_server_that_is_away_is_one_line(valkey_server):
    publish(valkey_server, detections_event())
    entries = stored(valkey_server)
    valkey_server.stop()
    with pytest.raises(SinkUnavailable):
        next(entries)


def test_the_newest_events_of_each_camera_are_in_order(redis_server):
    publish(redis_server, *(detections_event(seq=n) for n in range(LOOK_BACK + 5)))
    redis_server.client.xadd(STREAM, {"event": "?"})
    publish(redis_server, camera_event("yard"))
    redis_server.client.set("ssd:{odd}:detections", "x")
    redis_server.client.sadd("ssd:cameras", "odd", "new")
    found = newest_events(redis_server.url, None, replay=False, prefix="ssd")
    assert [event.data.seq for event in found["gate"]] == list(range(6, LOOK_BACK + 5))
    assert all(event.entry_id for event in found["gate"])
    assert {name: len(events) for name, events in found.items()} == {
        "gate": LOOK_BACK - 1, "yard": 1, "odd": 0, "new": 0,
    }  # fmt: skip
    named = newest_events(redis_server.url, ["yard", "none"], replay=False, prefix="ssd")
    assert (len(named["yard"]), named["none"]) == (1, [])


def test_a_set_of_cameras_that_is_none_is_one_line(valkey_server):
    valkey_server.client.set("ssd:cameras", "x")
    with pytest.raises(SinkError, match="ssd:cameras is not a set of camera ids"):
        newest_events(valkey_server.url, None, replay=False, prefix="ssd")


def test_a_snapshot_is_read_if_there_is_one_and_it_may_be_read(valkey_server):
    client, url = valkey_server.client, valkey_server.url
    assert stored_snapshot(url, Keys(), "gate") is None
    client.set("ssd:{gate}:snapshot", b"jpeg")
    assert stored_snapshot(url, Keys(), "gate") == b"jpeg"
    client.sadd("ssd:{yard}:snapshot", "x")
    assert stored_snapshot(url, Keys(), "yard") is None
    client.acl_setuser("default", enabled=True, commands=["-get"])
    assert stored_snapshot(url, Keys(), "gate") is None
