"""Times as the API writes and reads them: ISO 8601, UTC, with a Z.

Never raises for what an event may hold: a time that no clock can show is None.
"""

from datetime import UTC, datetime

FIRST_SECONDS = 946_684_800.0
"""2000-01-01: an epoch before it is a plain number, and not the time of a connection."""
LAST_SECONDS = 4_102_444_800.0
"""2100-01-01."""


def iso(seconds: float | None) -> str | None:
    """Unix seconds as text with milliseconds; None for None and for what is no time."""
    if seconds is None or not FIRST_SECONDS <= seconds <= LAST_SECONDS:
        return None
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def seconds_of(time: datetime | None) -> float | None:
    """A time as Unix seconds; one without a zone is UTC."""
    if time is None:
        return None
    try:
        seconds = (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp()
    except (OverflowError, ValueError):
        return None
    return seconds if FIRST_SECONDS <= seconds <= LAST_SECONDS else None


def parse_time(text: str) -> float:
    """Unix seconds of an ISO time, or of such a number. Raises ValueError."""
    try:
        seconds: float | None = float(text)
    except ValueError:
        seconds = seconds_of(datetime.fromisoformat(text))
    if seconds is None or not FIRST_SECONDS <= seconds <= LAST_SECONDS:
        raise ValueError(f"{text!r} is not a time")
    return seconds
