import time

import pytest
from redis.exceptions import NoPermissionError, ResponseError

from tests.consuming import warnings
from tests.unit.worker.consuming.reading import (
    DELETED,
    GATE,
    GROUP,
    YARD,
    forbid,
    recreated,
)

# Own pending entries


def test_own_pending_entries_come_before_claimed_ones_and_these_before_new_ones(reading):
    one = reading()
    one.add(*range(1, 10))
    one.hand_to("one", 3)
    one.hand_to("dead", 3, idle_ms=3_600_000)
    one.reader.restart()
    assert [one.take(), one.take(), one.take(), one.take()] == [[1, 2, 3], [4, 5, 6], [7, 8, 9], []]


def test_own_pending_entries_are_read_once_until_the_next_start(reading):
    one = reading()
    one.add(1, 2, 3)
    one.take()
    one.acknowledge(2)
    assert one.take() == []
    one.reader.restart()
    assert one.take_all() == [1, 3]
    before = one.calls_of("xreadgroup")
    assert one.take() == []
    assert one.calls_of("xreadgroup") == before + 1


def test_own_pending_entries_of_an_earlier_process_are_read_at_the_start(reading):
    earlier = reading()
    earlier.add(1, 2)
    earlier.take()
    assert reading().take() == [1, 2]


def test_many_own_pending_entries_are_read_in_portions(reading, monkeypatch):
    monkeypatch.setattr("worker.consuming.group.HISTORY_COUNT", 2)
    one = reading()
    one.add(*range(1, 10))
    one.take()
    one.reader.restart()
    assert [one.take() for _ in range(6)] == [[1, 2], [3, 4], [5, 6], [7, 8], [9], []]


def test_what_the_user_has_is_not_read_again_after_a_lost_reply(reading, monkeypatch):
    monkeypatch.setattr("worker.consuming.group.HISTORY_COUNT", 2)
    one = reading()
    one.add(*range(1, 6))
    one.take()
    one.add(6, 7)
    one.hand_to("one")
    one.reader.lost_reply()
    assert one.take_all() == [6, 7]


def test_own_pending_entries_are_gone_through_once_for_all_reads_in_doubt(reading, monkeypatch):
    monkeypatch.setattr("worker.consuming.group.HISTORY_COUNT", 1)
    one = reading()
    one.add(*range(1, 11))
    one.hand_to("one")
    one.reader.lost_reply()
    before = one.calls_of("xreadgroup")
    assert [one.take() for _ in range(10)] == [[number] for number in range(1, 11)]
    assert one.calls_of("xreadgroup") == before + 10


# Lost replies


def test_new_entries_are_taken_from_the_own_pending_ones_until_a_lost_read_has_ended(
    reading, monkeypatch
):
    one = reading(streams=(GATE, YARD))
    one.reader.lost_reply()
    one.add(1)
    one.add(2, stream=YARD)
    assert one.take() == []
    monkeypatch.setattr("worker.consuming.group.DOUBT_SECONDS", 0.0)
    one.reader.recovered()
    assert one.take_places() == [(GATE, 1)]
    assert one.take_places() == [(YARD, 2)]
    assert one.take() == []
    one.add(3)
    before = one.calls_of("xreadgroup")
    assert one.take() == [3]
    assert one.calls_of("xreadgroup") == before + 1


def test_doubt_lasts_until_some_time_after_the_recovery(reading, monkeypatch):
    one = reading()
    one.take()
    one.reader.lost_reply()
    one.reader.recovered()
    one.add(2)
    assert one.take() == []  # it may have been given to the lost read: here comes an earlier one
    assert one.take() == [2]
    monkeypatch.setattr("worker.consuming.group.DOUBT_SECONDS", 0.0)
    one.reader.recovered()
    one.add(3)
    assert one.take() == [3]


def test_what_a_lost_reply_had_is_where_a_deleted_group_goes_on(reading, caplog):
    one = reading()
    one.add(1, 2)
    one.hand_to("one")
    one.reader.lost_reply()
    assert one.take() == [1, 2]
    one.acknowledge(1, 2)
    one.server.xgroup_destroy(GATE, GROUP)
    one.add(3)
    assert one.take_all() == []  # in doubt
    assert one.take() == [3]
    assert warnings(caplog) == [recreated("after entry 2-1")]


# Acknowledgements


def test_an_acknowledged_entry_is_no_longer_with_the_user(reading):
    one = reading()
    one.add(1, 2, 3)
    one.take()
    assert one.acknowledge(1, 2) == 2
    assert one.acknowledge(1) == 0
    assert one.pending() == {"one": [3]}
    assert one.reader._with_user == one.reader._unacknowledged == {(GATE, "3-1")}
    # An operator hands them out again.
    one.server.xgroup_setid(GATE, GROUP, "0")
    assert one.take() == [1, 2]


def test_what_is_skipped_is_acknowledged_and_not_remembered(reading):
    one = reading(streams=(GATE, YARD))
    one.add(1, 2)
    one.add(3, stream=YARD)
    before = one.calls_of("xack")
    assert len(one.take(to_user=False)) == 3
    assert one.calls_of("xack") == before + 2
    assert one.pending() == one.pending(YARD) == {}
    assert not one.reader._unacknowledged
    assert not one.reader._with_user


def test_an_acknowledgement_without_a_stream_or_a_group_is_none(reading, caplog):
    one = reading()
    one.add(1, 2)
    one.take()
    one.server.xgroup_destroy(GATE, GROUP)
    assert one.acknowledge(1) == 0
    one.server.set(GATE, "somebody else's")
    assert one.acknowledge(2) == 0
    assert one.reader._unacknowledged == set()
    (said,) = warnings(caplog)
    assert "camera gate: set aside" in said
    assert one.reader.must_poll
    one.server.set(YARD, "another's")
    assert one.acknowledge(1, stream=YARD) == 0  # a camera that is not read here


@pytest.mark.parametrize("stream", [GATE, YARD])
def test_an_acknowledgement_that_is_not_allowed_is_an_error(reading, stream):
    one = reading()
    forbid(one.server, "xack")
    with pytest.raises(NoPermissionError):
        one.acknowledge(1, stream=stream)


# Claims


def test_claims_are_made_in_portions_until_nothing_is_left_and_then_rest(reading):
    one = reading(streams=(GATE, YARD), claim_after_seconds=40)
    one.add(*range(1, 13))
    one.add(*range(1, 4), stream=YARD)
    for stream in (GATE, YARD):
        one.hand_to("dead", stream=stream, idle_ms=50_000)
    gate, rest, yard, nothing = (one.take_places() for _ in range(4))
    assert gate == [(GATE, number) for number in range(1, 11)]
    assert rest == [(GATE, 11), (GATE, 12)]
    assert yard == [(YARD, 1), (YARD, 2), (YARD, 3)]
    assert nothing == []
    assert one.pending() == {"one": list(range(1, 13))}
    one.add(20)
    one.hand_to("dead", idle_ms=50_000)
    before = one.calls_of("xautoclaim")
    assert one.take() == []
    assert one.calls_of("xautoclaim") == before
    assert 0 < one.reader._next_claim - time.monotonic() <= 10
    one.reader._next_claim = time.monotonic()
    assert one.take() == [20]


def test_what_is_younger_is_not_claimed(reading):
    one = reading(claim_after_seconds=30)
    one.add(1, 2)
    one.hand_to("slow", 1, idle_ms=20_000)
    one.hand_to("dead", 1, idle_ms=40_000)
    assert one.take_all() == [2]


def test_trimmed_entries_which_redis_6_names_nil_are_not_claimed(reading, monkeypatch):
    one = reading()
    reply = (b"0-0", [(None, None), (b"1-1", {b"number": b"1"}), (None, None)])
    monkeypatch.setattr(one.client, "xautoclaim", lambda *_: reply)
    assert one.take() == [1]


def test_claiming_leaves_out_what_is_no_stream_and_what_is_not_allowed_is_an_error(reading):
    one = reading(streams=(GATE, YARD), claim_after_seconds=0.0)
    one.add(1, stream=YARD)
    one.hand_to("dead", stream=YARD)
    one.server.set(GATE, "somebody else's")
    one.reader.streams[GATE].history = one.reader.streams[YARD].history = None
    assert one.take_places() == [(YARD, 1)]
    forbid(one.server, "xautoclaim")
    with pytest.raises(NoPermissionError):
        one.take_all()


# Consumers that are gone


def consumers(one):
    return {each["name"].decode() for each in one.server.xinfo_consumers(GATE, GROUP)}


def test_consumers_that_are_idle_and_hold_nothing_are_removed(reading):
    one = reading(remove_idle_after_seconds=0.05)
    assert one.take() == []
    for name in ("idle", "busy"):
        one.server.xgroup_createconsumer(GATE, GROUP, name)
    one.add(1)
    one.hand_to("busy")
    time.sleep(0.06)
    one.reader._next_removal = 0.0
    assert one.take() == []
    assert consumers(one) == {"busy", "one"}


def test_idle_consumers_are_looked_for_once_in_a_while(reading):
    one = reading(remove_idle_after_seconds=4000)
    one.server.xgroup_createconsumer(GATE, GROUP, "idle for a moment")
    for _ in range(4):
        assert one.take() == []
    assert one.calls_of("evalsha") == 1
    assert consumers(one) == {"idle for a moment", "one"}
    assert 0 < one.reader._next_removal - time.monotonic() <= 1000
    one.reader._next_removal = time.monotonic()
    assert one.take() == []
    assert one.calls_of("evalsha") == 2


def test_looking_for_idle_consumers_deals_with_a_camera_and_goes_on_to_the_next(reading, caplog):
    one = reading(streams=(GATE, YARD))
    for stream in one.reader.streams.values():
        stream.history = None
    one.reader._next_claim = float("inf")
    one.server.set(GATE, "somebody else's")
    assert one.take() == []
    assert "camera gate: set aside" in warnings(caplog)[0]
    assert one.calls_of("xinfo|consumers") == 2


def test_looking_for_idle_consumers_that_is_not_allowed_is_an_error(reading):
    one = reading()
    one.reader._next_claim = float("inf")
    forbid(one.server, "xinfo|consumers")
    with pytest.raises(ResponseError, match="no permissions to run"):
        one.take()


def test_a_stream_that_is_missing_has_no_idle_consumers(reading, caplog):
    one = reading()
    one.add(1)
    one.take_all()
    one.reader._next_claim, one.reader._next_removal = float("inf"), 0.0
    one.server.delete(GATE)
    one.reader._remove_idle_consumers()
    assert GATE in one.reader.streams
    assert one.take() == []
    assert GATE not in one.reader.streams
    assert warnings(caplog) == [DELETED]
