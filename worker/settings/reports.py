"""The settings of `report`."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from worker.errors import UsageError
from worker.settings.base import RedisSettings, Sources
from worker.settings.coverage import parse_time


class ReportSettings(RedisSettings):
    """One page about recordings or cameras: what was detected when and where, and coverage."""

    model_config = SettingsConfigDict(cli_shortcuts={"from-time": "from", "to-time": "to"})

    reported: Sources = Field(
        default=[],
        description="file of JSON Lines, as `replay --output` and `subscribe` write it, or the id "
        "of a camera, or of a replay with --replay, whose stream is in Redis",
    )
    output: Path | None = Field(None, description="page to write: .html")
    video: Path | None = Field(
        None,
        description="the recording that a replay was of, for its frames; default: one beside "
        "FILE.jsonl that is named as the camera id",
    )
    replay: bool = Field(False, description="the ids are those of replays")
    from_time: str | None = Field(
        None,
        description="of live cameras: only from this time on, such as 2026-11-28T03:12 (local "
        "time, unless it has a zone), a date, or a duration ago such as 90m, 24h or 7d; default: "
        "the first event",
    )
    to_time: str | None = Field(
        None,
        description="end, as --from; default: now for a stream in Redis, the last event of a file",
    )
    plots: Path | None = Field(
        None, description="directory for pictures: detections over time, heat map, coverage, frames"
    )
    overwrite: bool = Field(False, description="replace an output that exists")

    @field_validator("from_time", "to_time", mode="before")
    @classmethod
    def _is_a_time(cls, value: Any) -> str | None:
        if value is None:
            return None
        # TOML has times and dates of its own.
        text = value.isoformat() if isinstance(value, date) else str(value)
        try:
            parse_time(text, datetime.now(UTC))
        except UsageError as error:
            raise ValueError(str(error)) from None
        return text

    def period(self, now: datetime) -> tuple[datetime | None, datetime | None]:
        """Start and end in UTC, as far as they are given.

        Raises UsageError if there is no time between them.
        """
        start = None if self.from_time is None else parse_time(self.from_time, now)
        end = None if self.to_time is None else min(parse_time(self.to_time, now), now)
        if start is not None and start >= (end or now):
            raise UsageError(
                f"--from {self.from_time}: no time is left up to --to {self.to_time or 'now'}: "
                "give an earlier one"
            )
        return start, end

    @model_validator(mode="after")
    def _says_what_and_where(self) -> "ReportSettings":
        if not self.reported:
            raise ValueError("nothing to report on: give FILE.jsonl, or the id of a camera")
        if self.output is None:
            raise ValueError("the report has nowhere to go: give --output report.html")
        if self.output.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"--output {self.output}: expected .html")
        if self.redis_url == "none" and any(map(is_id, self.reported)):
            raise ValueError("--redis-url none: an id needs the Redis server that has its stream")
        return self


def is_id(reported: str) -> bool:
    """Whether this is the id of a camera or replay, and not a file."""
    path = Path(reported)
    return not (
        path.is_file()
        or len(path.parts) != 1
        or path.suffix.lower() in (".jsonl", ".json", ".parquet", ".ndjson")
    )
