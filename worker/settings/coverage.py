"""The settings of `coverage`, and the times that it takes."""

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from worker.errors import UsageError
from worker.settings.base import RedisSettings

AGO = re.compile(r"([0-9]+)(s|m|h|d|w)")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
TIMES = "expected a time such as 2026-11-28T03:12, a date, or a duration ago such as 90m, 24h or 7d"


class CoverageSettings(RedisSettings):
    """Tell when cameras were watched, and when not and why."""

    model_config = SettingsConfigDict(
        cli_shortcuts={"from-time": "from", "to-time": "to", "as-json": "json"}
    )

    cameras: CliPositionalArg[list[str]] = Field(
        default=[], description="camera ids; default: all that Redis knows"
    )
    from_time: str = Field(
        "24h",
        description="start: a time such as 2026-11-28T03:12 (local time, unless it has a zone), a "
        "date, or a duration ago such as 90m, 24h or 7d",
    )
    to_time: str = Field("now", description="end, as --from; a time to come means now")
    as_json: bool = Field(False, description="print one JSON object instead of tables")
    plot: Path | None = Field(None, description=".png to draw the intervals into, too")

    @field_validator("from_time", "to_time", mode="before")
    @classmethod
    def _is_a_time(cls, value: Any) -> str:
        # TOML has times and dates of its own.
        text = value.isoformat() if isinstance(value, date) else str(value)
        try:
            parse_time(text, datetime.now(UTC))
        except UsageError as error:
            raise ValueError(str(error)) from None
        return text

    @model_validator(mode="after")
    def _fits(self) -> "CoverageSettings":
        if self.redis_url == "none":
            raise ValueError("--redis-url none has no events to read: give a URL")
        if self.plot is not None and self.plot.suffix != ".png":
            raise ValueError(f"--plot {self.plot}: expected .png")
        return self

    def period(self, now: datetime) -> tuple[datetime, datetime]:
        """Start and end, in UTC. Raises UsageError if there is no time between them."""
        start, end = parse_time(self.from_time, now), min(parse_time(self.to_time, now), now)
        if start >= now:
            raise UsageError(f"--from {self.from_time}: is yet to come: give a time before now")
        if start >= end:
            raise UsageError(
                f"--from {self.from_time} --to {self.to_time}: ends before it starts: give --to a "
                "later time"
            )
        return start, end


def parse_time(text: str, now: datetime) -> datetime:
    """A time in UTC from what a user types: ISO 8601, ``now``, or a duration before ``now``.

    Without a zone it is local. Raises UsageError.
    """
    text = text.strip()
    if text == "now":
        return now
    try:
        if ago := AGO.fullmatch(text.removesuffix(" ago").lower()):
            return now - timedelta(**{UNITS[ago[2]]: int(ago[1])})
        if "-" not in text:  # 1130 is a time of day to some, the year to fromisoformat
            raise UsageError(TIMES)
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(TIMES) from None
