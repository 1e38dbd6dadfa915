"""The settings of `report`."""

from pathlib import Path

from pydantic import Field, model_validator

from worker.settings.base import RedisSettings, Sources


class ReportSettings(RedisSettings):
    """One page about recordings or cameras: what was detected when and where, and coverage."""

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
    plots: Path | None = Field(
        None, description="directory for pictures: detections over time, heat map, coverage, frames"
    )
    overwrite: bool = Field(False, description="replace an output that exists")

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
        path.exists()
        or len(path.parts) != 1
        or path.suffix.lower() in (".jsonl", ".json", ".parquet", ".ndjson")
    )
