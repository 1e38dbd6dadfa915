"""Times as the API writes and reads them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from worker.dashboard.times import iso, parse_time, seconds_of

MOMENT = datetime(2026, 11, 28, 3, 12, 0, 250_000, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-28T03:12:00.250Z",
        "2026-11-28T03:12:00.250+00:00",
        "2026-11-28T04:12:00.250+01:00",
        "2026-11-28 03:12:00.250",
        str(MOMENT.timestamp()),
    ],
)
def test_a_time_is_read_and_written(text):
    assert parse_time(text) == MOMENT.timestamp()
    assert iso(parse_time(text)) == "2026-11-28T03:12:00.250Z"


@pytest.mark.parametrize("text", ["", "yesterday", "nan", "inf", "-5", "1e300", "0001-01-01"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match=r"not a time|isoformat"):
        parse_time(text)


def test_a_time_without_a_zone_is_utc_and_one_that_cannot_be_is_none():
    assert seconds_of(MOMENT.replace(tzinfo=None)) == MOMENT.timestamp()
    assert seconds_of(datetime.max) is None
    assert seconds_of(datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23)))) is None
    assert seconds_of(None) is None
    assert iso(None) is None
    assert iso(-1.0) is None
    assert iso(1e300) is None
