"""What reading with and without a group have in common."""

import threading
import time

import pytest
from redis.exceptions import NoPermissionError, ResponseError

from tests.consuming import warnings
from tests.unit.worker.consuming.reading import GATE, YARD

both = pytest.mark.parametrize("group", [None, "alerts"])


@both
def test_a_read_gives_ten_entries_of_each_camera(reading, group):
    one = reading(group, streams=(GATE, YARD))
    one.add(*range(1, 13))
    one.add(*range(1, 12), stream=YARD)
    first = one.take_places()
    assert sorted(first) == [(s, n) for s in (GATE, YARD) for n in range(1, 11)]
    assert sorted(one.take_places()) == [(GATE, 11), (GATE, 12), (YARD, 11)]
    assert one.take() == []


@both
def test_a_read_waits_as_long_as_it_may_and_at_least_a_moment(reading, group):
    one = reading(group)
    one.add(1)
    assert one.take() == [1]
    started = time.monotonic()
    assert one.take(block_seconds=0.2) == []
    assert 0.15 < time.monotonic() - started < 2
    assert one.take(block_seconds=0) == []  # to the server, 0 means for ever


@both
def test_an_entry_ends_the_wait(reading, group):
    one = reading(group)
    one.add(1)
    one.take()
    later = threading.Timer(0.05, one.add, [2])
    later.start()
    assert one.take(block_seconds=30) == [2]
    later.join()


@both
def test_a_start_is_an_entry_id_or_the_end_as_it_is_then(reading, group):
    for number in (1, 2, 3):
        reading.server.xadd(GATE, {"number": number}, id=f"{number}-1")
    assert reading(group, "2-1").take() == [3]
    if group:
        reading.server.xgroup_destroy(GATE, group)
    late = reading(group, "$", streams=(GATE, YARD))
    late.add(4)
    late.add(5, stream=YARD)
    assert sorted(late.take_places()) == [(GATE, 4), (YARD, 5)]


@both
@pytest.mark.parametrize("start", ["0", "$"])
def test_a_key_that_is_no_stream_is_tried_again_from_time_to_time(reading, caplog, group, start):
    reading.server.set(GATE, "somebody else's")
    one = reading(group, start, streams=(GATE, YARD))
    stream = one.reader.streams[GATE]
    assert 0 < stream.try_again_at - time.monotonic() <= 10
    assert not one.reader.must_poll
    one.add(1, stream=YARD)
    assert one.take_places() == [(YARD, 1)]
    stream.try_again_at = time.monotonic()
    before = one.calls_of("xreadgroup" if group else "xread")
    assert one.take() == []  # it is tried, still no stream, and not read
    assert one.calls_of("xreadgroup" if group else "xread") == before + 1
    one.server.delete(GATE)
    one.add(5, 6)
    assert one.take() == []  # not tried again so soon
    stream.try_again_at = time.monotonic()
    assert one.take_places() == [(GATE, 5), (GATE, 6)]
    assert not stream.is_set_aside
    assert warnings(caplog) == [
        f"camera gate: set aside: {GATE} in Redis at HOST:PORT is not a stream: delete or rename it"
    ]


@both
def test_a_stream_that_was_away_for_a_while_is_read_on(reading, group):
    one = reading(group)
    one.add(1, 2)
    assert one.take() == [1, 2]
    one.server.rename(GATE, "elsewhere")
    one.server.set(GATE, "somebody else's")
    assert one.take() == []
    assert one.reader.must_poll
    one.server.rename("elsewhere", GATE)
    one.reader.streams[GATE].try_again_at = 0.0
    assert one.take() == []
    one.add(3)
    assert one.take() == [3]


@both
def test_where_all_keys_are_no_streams_there_is_nothing_to_wait_for(reading, group):
    reading.server.set(GATE, "somebody else's")
    one = reading(group)
    assert one.reader.must_poll
    started = time.monotonic()
    assert one.take(block_seconds=30) == []
    assert time.monotonic() - started < 1


@both
def test_a_stream_that_becomes_something_else_is_set_aside_and_the_others_are_read(
    reading, monkeypatch, caplog, group
):
    one = reading(group, streams=(GATE, YARD))
    one.add(1)
    assert one.take() == [1]
    one.server.set(GATE, "somebody else's")
    one.add(1, 2, stream=YARD)
    assert one.take_places() == [(YARD, 1), (YARD, 2)]
    assert one.take() == []
    one.add(3, stream=YARD)
    assert one.take_places() == [(YARD, 3)]
    assert len(warnings(caplog)) == 1
    before = one.calls_of("xreadgroup" if group else "xread")
    for _ in range(5):
        assert one.take() == []
    assert one.calls_of("xreadgroup" if group else "xread") == before + 5  # each with one command


@both
def test_an_error_that_is_not_of_one_stream_reaches_the_caller(reading, group):
    one = reading(group)
    one.add(1)
    command = "xreadgroup" if group else "xread"
    one.server.acl_setuser("default", enabled=True, commands=[f"-{command}"])
    try:
        with pytest.raises(NoPermissionError):
            one.take()
        one.reader._cluster = True
        with pytest.raises(NoPermissionError):
            one.take()
    finally:
        one.server.acl_setuser("default", enabled=True, commands=[f"+{command}"])


@both
def test_a_stream_that_may_not_be_looked_at_is_an_error_at_the_start(reading, group):
    reading.server.acl_setuser("default", enabled=True, commands=["-xrevrange", "-xgroup|create"])
    try:
        with pytest.raises(ResponseError, match="no permissions"):
            reading(group)
    finally:
        reading.server.acl_setuser(
            "default", enabled=True, commands=["+xrevrange", "+xgroup|create"]
        )


@both
def test_in_a_cluster_cameras_take_turns(reading, group):
    one = reading(group, streams=(GATE, YARD))
    one.reader._cluster = True
    assert one.reader.must_poll
    for stream in (GATE, YARD):
        one.add(*range(1, 31), stream=stream)
    turns = [one.take_places() for _ in range(6)]
    assert [{stream for stream, _ in turn} for turn in turns] == [{GATE}, {YARD}] * 3
    for stream in (GATE, YARD):
        numbers = [n for turn in turns for s, n in turn if s == stream]
        assert numbers == list(range(1, 31))
    started = time.monotonic()
    assert one.take(block_seconds=30) == []
    assert time.monotonic() - started < 1
