"""The times of `ssd-worker coverage`."""

from datetime import UTC, datetime, timedelta

import pytest

from worker.errors import UsageError
from worker.settings.coverage import CoverageSettings, parse_time

NOW = datetime(2026, 11, 28, 12, 30, tzinfo=UTC)


@pytest.fixture(autouse=True)
def local_zone(monkeypatch):
    import time

    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("now", NOW),
        ("30s", NOW - timedelta(seconds=30)),
        ("90m", NOW - timedelta(minutes=90)),
        ("24h", NOW - timedelta(hours=24)),
        ("7d", NOW - timedelta(days=7)),
        ("2w", NOW - timedelta(weeks=2)),
        ("24H ago", NOW - timedelta(hours=24)),
        ("2026-11-28T03:12", datetime(2026, 11, 28, 2, 12, tzinfo=UTC)),
        ("2026-07-28 03:12:30.5", datetime(2026, 7, 28, 1, 12, 30, 500_000, tzinfo=UTC)),
        ("2026-11-28T03:12Z", datetime(2026, 11, 28, 3, 12, tzinfo=UTC)),
        ("2026-11-28T03:12+09:00", datetime(2026, 11, 27, 18, 12, tzinfo=UTC)),
        (" 2026-11-28 ", datetime(2026, 11, 27, 23, tzinfo=UTC)),
    ],
)
def test_times_are_read(text, time):
    assert parse_time(text, NOW) == time


@pytest.mark.parametrize(
    "text",
    ["", "5", "1130", "20261128", "24", "h", "-5h", "1.5h", "24 hours", "yesterday", "2026-13-01",
     "2026-11-31", "2026-11-28T25:00", "9999999999d", "9" * 400 + "s", "0001-01-01", "\u0663h"],
)  # fmt: skip
def test_what_is_not_a_time_is_refused(text):
    with pytest.raises(UsageError, match=r"^expected a time such as .*, a date, or a duration ago"):
        parse_time(text, NOW)


def test_a_time_to_come_is_now():
    settings = CoverageSettings(from_time="1h", to_time="2999-01-01")
    assert settings.period(NOW) == (NOW - timedelta(hours=1), NOW)


@pytest.mark.parametrize(("start", "end"), [("now", "now"), ("2999-01-01", "now"), ("1h", "1h")])
def test_a_period_without_time_is_refused(start, end):
    with pytest.raises(UsageError, match="give"):
        CoverageSettings(from_time=start, to_time=end).period(NOW)
