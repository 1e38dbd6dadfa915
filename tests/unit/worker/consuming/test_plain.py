import pytest
from redis.exceptions import NoPermissionError

from tests.consuming import warnings
from tests.unit.worker.consuming.reading import GATE, YARD

GONE = f"camera gate: {GATE} was deleted or replaced: reading it from its start"


@pytest.fixture
def often(monkeypatch):
    """Looks with each read whether streams are still the same."""
    monkeypatch.setattr("worker.consuming.plain.CHECK_SECONDS", 0.0)


def test_what_the_user_has_not_got_is_read_again(reading):
    one = reading(None)
    one.add(1, 2, 3)
    first, *_ = one.reader.read(0.001)
    one.reader.passed(first, to_user=True)
    assert one.take() == [2, 3]
    one.add(4)
    (skipped,) = one.reader.read(0.001)
    one.reader.passed(skipped, to_user=False)
    assert one.take() == []


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("ids", [[1, 2], [5]], ids=["earlier", "the same"])
def test_a_stream_with_earlier_ids_is_read_from_its_start(reading, caplog, ids):
    one = reading(None, streams=(GATE, YARD))
    one.add(5)
    one.add(9, stream=YARD)
    one.take()
    one.server.delete(GATE)
    assert one.take() == []
    assert warnings(caplog) == [GONE]
    one.add(*ids)
    assert one.take_places() == [(GATE, number) for number in ids]
    assert one.take() == []
    assert len(warnings(caplog)) == 1


@pytest.mark.usefixtures("often")
def test_a_stream_that_was_trimmed_is_the_same(reading, caplog):
    one = reading(None)
    one.add(1, 2, 3)
    one.take()
    one.server.xtrim(GATE, 0, approximate=False)
    assert one.take() == []
    one.add(4)
    assert one.take() == [4]
    assert warnings(caplog) == []


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("exists", [True, False])
def test_a_start_beyond_the_end_stays(reading, caplog, exists):
    one = reading(None, "7-0")
    if exists:
        one.add(1)
    assert one.take() == []
    one.add(8)
    assert one.take() == [8]
    assert warnings(caplog) == []


def test_streams_are_looked_at_once_in_a_while_and_after_an_outage(reading, caplog):
    one = reading(None, streams=(GATE, YARD))
    one.add(1)
    one.add(1, stream=YARD)
    for _ in range(5):
        one.take()
    before = one.calls_of("xinfo|stream")
    for _ in range(5):
        one.take()
    assert one.calls_of("xinfo|stream") == before
    one.server.delete(GATE)
    assert one.take() == []
    assert warnings(caplog) == []
    one.reader.recovered()
    one.take()
    assert warnings(caplog) == [GONE]
    assert one.calls_of("xinfo|stream") == before + 2
    one.take()
    assert one.calls_of("xinfo|stream") == before + 2


@pytest.mark.usefixtures("often")
def test_looking_at_streams_sets_aside_what_is_none_and_raises_what_is_not_of_one(reading, caplog):
    one = reading(None, streams=(GATE, YARD))
    one.add(1)
    one.add(1, stream=YARD)
    one.take()
    one.server.set(GATE, "somebody else's")
    before = one.calls_of("xread")
    assert one.take() == []
    assert "set aside" in warnings(caplog)[0]
    assert one.calls_of("xread") == before + 1  # without it
    one.server.acl_setuser("default", enabled=True, commands=["-xinfo|stream"])
    try:
        with pytest.raises(NoPermissionError):
            one.take()
    finally:
        one.server.acl_setuser("default", enabled=True, commands=["+xinfo|stream"])
