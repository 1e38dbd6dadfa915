"""The settings of every command: one field per option gives one flag, variable and TOML key.

Checks what can be seen in the settings themselves. Opens no file; the cameras themselves are read
in ``worker.settings.cameras``.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import CliPositionalArg, NoDecode, SettingsConfigDict

from worker.events import CameraState
from worker.settings.base import (
    CameraDefaults,
    DetectorSettings,
    HttpSettings,
    RedisSettings,
    Settings,
    Sources,
    SpoolPlace,
)
from worker.settings.coverage import CoverageSettings
from worker.settings.dashboard import DashboardSettings
from worker.settings.learning import EvaluateSettings, TrainSettings
from worker.settings.reports import ReportSettings

LIVE_STREAM_MAXLEN = 100_000
SPOOL_MAX_BYTES = 1 << 30
"""About 700,000 events of 1.5 kB: eight hours of one 25 fps camera that always sees something."""


class RunSettings(DetectorSettings, CameraDefaults, SpoolPlace, HttpSettings):
    """Watch cameras until stopped."""

    sources: Sources = Field(
        default=[], description="camera URL (rtsp://, http://) or file, or CAMERA_ID=SOURCE"
    )
    cameras: Path | None = Field(
        None,
        description="TOML file with a [cameras.ID] table per camera (paths in it are relative to "
        "the working directory); check it with `ssd-worker cameras FILE`",
    )
    max_wait_ms: float = Field(
        20,
        ge=0,
        le=10_000,
        description="maximum milliseconds a frame waits for others to fill a batch",
    )
    loop: bool = Field(False, description="restart files at their end")
    allow_playlists: bool = Field(
        False,
        description="accept a camera that is an HLS or DASH playlist, which can open other hosts",
    )
    take_over: bool = Field(
        False,
        description="take cameras over from workers that are watching them now, for a planned "
        "change: those stop watching them",
    )
    publish: Literal["detections", "all"] = Field(
        "detections", description="publish frames with detections, or all frames"
    )
    stream_maxlen: int = Field(
        LIVE_STREAM_MAXLEN,
        ge=0,
        description="approximate number of entries kept per camera; 0: all",
    )
    snapshot_seconds: float = Field(
        1,
        ge=1,
        le=3600,
        allow_inf_nan=False,
        description="at most one snapshot per camera in this many seconds",
    )
    snapshot_width: int = Field(
        640, ge=64, le=3840, description="maximum width of a snapshot in pixels"
    )

    spool_max_bytes: int = Field(
        SPOOL_MAX_BYTES,
        ge=0,
        description="maximum size of this worker's events in the spool; beyond it the oldest are "
        "discarded and counted",
    )

    @property
    def camera_files(self) -> list[Path]:
        """The files that may name cameras."""
        return [path for path in (self.config, self.cameras) if path is not None]

    @model_validator(mode="after")
    def _has_somewhere_to_publish(self) -> "RunSettings":
        if self.redis_url == "none":
            raise ValueError("--redis-url none: `run` has nowhere to publish: give a URL")
        return self


class ReplaySettings(DetectorSettings, HttpSettings):
    """Analyse every frame of recordings."""

    paths: Sources = Field(
        default=[], description="video, picture or folder of pictures, or CAMERA_ID=PATH"
    )
    output: Path | None = Field(
        None, description="file for the events: .jsonl, .parquet, or .json for COCO"
    )
    annotate: Path | None = Field(None, description="MP4 to draw the detections into")
    stride: int = Field(1, ge=1, description="analyse every Nth frame")
    restart: bool = Field(False, description="start again: discard what was published or written")
    overwrite: bool = Field(False, description="replace output files that exist")
    stream_maxlen: int = Field(
        0, ge=0, description="approximate number of entries kept per stream; 0: all"
    )

    @model_validator(mode="after")
    def _outputs_fit(self) -> "ReplaySettings":
        if not self.paths:
            raise ValueError("no recording to replay: give PATH, such as clip.mp4")
        if self.output is not None and self.output.suffix not in (".jsonl", ".parquet", ".json"):
            raise ValueError(f"--output {self.output}: expected .jsonl, .parquet or .json (COCO)")
        if self.annotate is not None and self.annotate.suffix != ".mp4":
            raise ValueError(f"--annotate {self.annotate}: expected .mp4")
        if self.annotate is not None and len(self.paths) > 1:
            raise ValueError("--annotate writes one file: replay one recording at a time")
        if self.redis_url == "none" and self.output is None and self.annotate is None:
            raise ValueError(
                "--redis-url none: the replay has nowhere to write: give --output or --annotate"
            )
        if self.fps is not None and self.stride > 1:
            raise ValueError("--fps and --stride both choose frames: give one of them")
        return self

    @property
    def effective_redis_url(self) -> str:
        """The URL, or the default for these outputs."""
        has_file = self.output is not None or self.annotate is not None
        return self.redis_url or ("none" if has_file else "embedded")


class SubscribeSettings(RedisSettings, HttpSettings):
    """Print events as JSON Lines, or as a live table."""

    model_config = SettingsConfigDict(cli_shortcuts={"start": "from"})

    cameras: CliPositionalArg[list[str]] = Field(
        default=[],
        description="camera ids; default: all, including cameras that appear later",
    )
    start: str = Field(
        "new",
        pattern=r"^(start|new|\d+(-\d+)?)$",
        description="where to begin: start, new or an ENTRY_ID; an existing group resumes where "
        "it stopped",
    )
    count: int | None = Field(None, ge=1, description="stop after this many events")
    group: str | None = Field(None, description="consumer group to read and acknowledge in")
    consumer: str | None = Field(None, description="name in the group; default: host and process")
    replay: bool = Field(False, description="read the events of replays instead of live cameras")
    filter_labels: Annotated[list[str] | None, NoDecode] = Field(
        None,
        description="print only detections events with one of these labels, separated by commas",
    )
    filter_score: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="print only detections events with a detection scoring above this, of one of "
        "the --filter-labels if given",
    )
    filter_states: Annotated[list[CameraState] | None, NoDecode] = Field(
        None,
        description="print only camera events with one of these states, separated by commas: up, "
        "down, degraded, ended",
    )
    pretty: bool = Field(
        False,
        description="show a table of the cameras, their state, rate, latency and detections on the "
        "terminal, instead of JSON Lines",
    )
    lag: bool = Field(
        False,
        description="print per camera how many entries the --group has not read (lag) and not "
        "acknowledged (pending), then exit; null: unknown",
    )

    @field_validator("filter_labels", "filter_states", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        if value is None:
            return None
        values = [value] if isinstance(value, str) else value
        names = [part.strip() for item in values for part in str(item).split(",")]
        if not names or not all(names):
            raise ValueError("expected names separated by commas")
        return names

    @model_validator(mode="after")
    def _group_and_server_fit(self) -> "SubscribeSettings":
        if self.consumer is not None and self.group is None:
            raise ValueError("--consumer names a member of a group: give --group too")
        if self.lag and self.group is None:
            raise ValueError("--lag is that of a group: give --group too")
        if self.lag and self.pretty:
            raise ValueError("--lag prints and exits: leave out --pretty")
        if self.redis_url == "none":
            raise ValueError("--redis-url none has no events to read")
        return self


class CamerasSettings(CameraDefaults):
    """Check cameras without running: print what would run, and everything that is wrong."""

    model_config = SettingsConfigDict(cli_shortcuts={"as-json": "json"})

    cameras: CliPositionalArg[Path | None] = Field(
        None,
        description="TOML file, as `ssd-worker run --cameras` takes it; default: the [cameras.ID] "
        "tables of the --config file only",
    )
    as_json: bool = Field(False, description="print one JSON object instead of a table")


class ModelsSettings(Settings):
    """List the models."""


class DoctorSettings(RedisSettings):
    """Check this machine: device, decoders, Redis."""

    device: str = Field("auto", description="device to check: auto, cpu or cuda[:N]")


class ForgetSettings(RedisSettings):
    """Delete the streams and keys of cameras and replays from Redis; asks nothing."""

    ids: CliPositionalArg[list[str]] = Field(min_length=1, description="id of a camera or replay")
    replay: bool = Field(False, description="only the replay of this id, not the live camera")
    force: bool = Field(False, description="even if a worker is publishing to the camera")

    @model_validator(mode="after")
    def _has_a_server(self) -> "ForgetSettings":
        if self.redis_url == "none":
            raise ValueError("--redis-url none has nothing to forget: give a URL")
        return self


class SpoolSettings(SpoolPlace):
    """Show, or purge, the events that wait on disk for a Redis server."""

    model_config = SettingsConfigDict(cli_shortcuts={"as-json": "json"})

    action: CliPositionalArg[Literal["list", "purge"]] = Field(
        "list", description="list them, or delete them: purge CAMERA..., or purge --all"
    )
    ids: CliPositionalArg[list[str]] = Field(default=[], description="only those of these cameras")
    server: str | None = Field(
        None, description="only those for this server: HOST:PORT, as the list shows it"
    )
    all: bool = Field(False, description="purge the events of every camera that is not in use")
    as_json: bool = Field(False, description="print one JSON object instead of a table")

    @model_validator(mode="after")
    def _says_what_to_purge(self) -> "SpoolSettings":
        if self.action == "purge" and not self.ids and not self.all and self.server is None:
            raise ValueError("purge what? give CAMERA..., --server HOST:PORT or --all")
        return self


COMMANDS: dict[str, type[Settings]] = {
    "run": RunSettings,
    "replay": ReplaySettings,
    "train": TrainSettings,
    "subscribe": SubscribeSettings,
    "dashboard": DashboardSettings,
    "coverage": CoverageSettings,
    "cameras": CamerasSettings,
    "evaluate": EvaluateSettings,
    "report": ReportSettings,
    "spool": SpoolSettings,
    "forget": ForgetSettings,
    "models": ModelsSettings,
    "doctor": DoctorSettings,
}
