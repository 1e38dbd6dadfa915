"""Streams and groups that are taken from a reader."""

import pytest
from redis.exceptions import NoPermissionError

from tests.consuming import warnings
from tests.unit.worker.consuming.reading import (
    DELETED,
    GATE,
    GROUP,
    YARD,
    forbid,
    recreated,
)


def test_a_deleted_stream_is_given_up_with_its_entries_and_no_other(reading, caplog):
    one = reading(streams=(GATE, YARD))
    one.add(1, 2)
    one.add(3, stream=YARD)
    one.take()
    one.server.delete(GATE)
    assert not one.reader.lacks_streams
    assert one.take() == []
    assert one.reader.lacks_streams
    assert list(one.reader.streams) == [YARD]
    assert one.reader._unacknowledged == one.reader._with_user == {(YARD, "3-1")}
    assert warnings(caplog) == [DELETED]
    assert not one.server.exists(GATE)


def test_a_group_that_was_deleted_is_created_again_after_the_last_entry_that_was_read(
    reading, caplog
):
    one = reading(streams=(GATE, YARD))
    one.add(1, 2, 3)
    one.add(1, stream=YARD)
    one.take()
    one.acknowledge(1, 2, 3)
    one.server.xgroup_destroy(GATE, GROUP)
    one.add(4)
    assert one.take() + one.take() + one.take() == [4]
    assert warnings(caplog) == [recreated("after entry 3-1")]
    assert one.pending() == {"one": [4]}


def test_a_group_is_created_again_before_the_first_entry_that_is_not_acknowledged(reading, caplog):
    one = reading(streams=(GATE, YARD))
    one.add(1, stream=YARD)  # not acknowledged either, and of another stream
    one.add(2, 3, 4)
    one.take()
    one.acknowledge(2)
    one.server.xgroup_destroy(GATE, GROUP)
    assert one.take() == []
    assert one.take() == []  # the user has them
    assert one.pending() == {"one": [3, 4]}
    assert warnings(caplog) == [recreated("after entry 3-0")]


def test_entries_that_are_read_again_do_not_move_a_group_back(reading, caplog):
    one = reading()
    one.add(1, 2, 3)
    one.take()
    one.acknowledge(2, 3)
    one.reader.restart()
    assert one.take() == [1]
    one.acknowledge(1)
    one.server.xgroup_destroy(GATE, GROUP)
    one.add(4)
    assert one.take_all() == [4]
    assert warnings(caplog) == [recreated("after entry 3-1")]


def test_what_is_skipped_does_not_hold_a_group_back(reading):
    one = reading()
    one.add(1, 2)
    one.take(to_user=False)
    one.server.xgroup_destroy(GATE, GROUP)
    one.add(3)
    assert one.take_all() == []
    assert one.take() == [3]


def test_a_group_that_had_read_nothing_here_goes_on_where_it_stood(reading, caplog):
    reading.server.xadd(GATE, {"number": 1}, id="1-1")
    reading.server.xgroup_create(GATE, "another", "0")
    reading.server.xgroup_create(GATE, GROUP, "$")
    reading.server.xgroup_create(GATE, "younger", "0")
    one = reading()
    one.add(2)
    one.server.xgroup_destroy(GATE, GROUP)
    assert one.take() == [2]
    assert warnings(caplog) == [recreated("after entry 1-1")]


def test_a_stream_that_was_replaced_is_read_from_its_first_entry(reading, caplog):
    one = reading()
    one.add(5)
    one.take()
    one.server.delete(GATE)
    one.add(1, 2)
    assert one.take() + one.take() + one.take() == [1, 2]
    assert warnings(caplog) == [recreated("from the first entry")]
    assert one.reader._with_user == {(GATE, "1-1"), (GATE, "2-1")}


def test_a_group_that_another_consumer_has_created_again_is_joined_without_a_word(reading, caplog):
    one, two = reading(), reading()
    one.take()
    two.take()
    one.server.xgroup_destroy(GATE, GROUP)
    one.add(1)
    stream = two.reader.streams[GATE]
    one.take()
    assert len(warnings(caplog)) == 1
    two.reader._group_is_gone(stream)
    assert len(warnings(caplog)) == 1
    assert GATE in two.reader.streams


def test_a_group_that_may_not_be_created_again_is_an_error(reading):
    one = reading()
    one.take()
    one.server.xgroup_destroy(GATE, GROUP)
    forbid(one.server, "xgroup|create")
    with pytest.raises(NoPermissionError):
        one.take()


def test_a_stream_that_becomes_something_else_while_its_group_is_created_again_is_set_aside(
    reading, caplog
):
    one = reading()
    one.take()
    stream = one.reader.streams[GATE]
    one.reader._where_to_resume = lambda _: (one.server.set(GATE, "somebody else's"), "0")[1]
    one.reader._group_is_gone(stream)
    assert "camera gate: set aside" in warnings(caplog)[0]
    assert GATE in one.reader.streams
