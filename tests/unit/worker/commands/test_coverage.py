"""The tables of `ssd-worker coverage`."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from worker.commands import coverage
from worker.coverage import Interval

WINTER = datetime(2026, 11, 20, 12, tzinfo=UTC)
SUMMER = datetime(2026, 7, 20, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def in_berlin(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_times_are_local_and_say_so():
    assert coverage._zone(WINTER, WINTER + timedelta(days=1)) == "UTC+0100"
    assert coverage._zone(SUMMER, WINTER) == "local time"
    assert coverage._local(SUMMER) == "2026-07-20 14:00:00"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (60, "0:01:00"), (3599.6, "1:00:00"), (90_061, "25:01:01")],
)
def test_durations_are_short_to_read(seconds, shown):
    assert coverage._duration(timedelta(seconds=seconds)) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "-"), (0.5, "0.01%"), (43_200, "50.00%"), (86_399, "99.99%")]
)
def test_a_share_is_not_rounded_to_none_or_all(seconds, shown):
    end = WINTER + timedelta(days=1)
    split = WINTER + timedelta(seconds=seconds)
    found = {
        "gate": [Interval(WINTER, split, "watched", ""), Interval(split, end, "down", "stall")]
    }
    heading, row = coverage._summary(found)
    assert row[heading.index("watched")] == shown
