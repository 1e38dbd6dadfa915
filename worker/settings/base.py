"""What the settings of several commands have in common."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from platformdirs import user_state_path
from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import BaseSettings, CliPositionalArg, NoDecode, SettingsConfigDict

from worker.sources.limits import Limits

ENV_PREFIX = "SSD_WORKER_"
INT_MAX = 2**31 - 1
"""The maximum number of pixels that FFmpeg itself accepts."""
EMBEDDED_MIN_BYTES = 10_000_000
"""An empty Valkey takes 1 MB, each client up to 1 MB more for a moment."""

ADDRESS = re.compile(r"(?:(?P<host>[\w.-]*|\[[\w.:%]+\]):)?(?P<port>[0-9]{1,5})")
"""HOST:PORT, [IPV6]:PORT, :PORT for every address of this machine, or PORT."""
MAX_PORT = 65535

Transport = Literal["auto", "tcp", "udp"]


Sources = Annotated[
    CliPositionalArg[list[str]],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]
"""Text is one source as it is."""


class Settings(BaseSettings):
    """What every command takes."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_parse_none_str="\0",  # nobody can type it: any word may be the name of a file
        cli_exit_on_error=False,
        extra="forbid",
    )

    config: Path | None = Field(None, description="TOML file with any of these settings")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="minimum level to log to stderr"
    )
    log_json: bool = Field(False, description="log JSON lines instead of text")


class StateSettings(Settings):
    """Where this machine keeps what outlives a process."""

    state_dir: Path = Field(
        user_state_path("ssd-worker", appauthor=False),
        description="where the embedded server and the spool keep their data",
    )


class HttpSettings(Settings):
    """Whether, and where, a command answers probes and Prometheus."""

    http: str | None = Field(
        None,
        description="serve metrics, health and the state of cameras at HOST:PORT, or at PORT of "
        "127.0.0.1; default: nowhere",
    )

    @field_validator("http", mode="before")
    @classmethod
    def _is_address(cls, value: Any) -> Any:
        if value is None:
            return None
        parts = ADDRESS.fullmatch(str(value))
        if parts is None or int(parts["port"]) > MAX_PORT:
            raise ValueError("expected HOST:PORT or PORT, such as 127.0.0.1:9464 or 9464")
        return str(value)

    @property
    def http_address(self) -> tuple[str, int] | None:
        """(host, port) to listen at; None: nowhere."""
        if self.http is None:
            return None
        parts = ADDRESS.fullmatch(self.http)
        assert parts is not None
        host = "127.0.0.1" if parts["host"] is None else parts["host"].strip("[]")
        return host or "0.0.0.0", int(parts["port"])


class SecretsSettings(Settings):
    """Where names in braces are looked up."""

    secrets: Path | None = Field(
        None,
        description="where to look up {NAME} in URLs such as redis://:{PASSWORD}@HOST: a TOML "
        "file, or a directory with one file per name; names not found there come from the "
        "environment",
    )


class RedisSettings(SecretsSettings, StateSettings):
    """Where events go, or come from."""

    redis_url: str | None = Field(
        None,
        description="redis://, rediss://, unix:// or redis+cluster:// URL, 'embedded' (a Valkey "
        "that is started when needed) or 'none'; default: embedded, but none for a replay with "
        "--output or --annotate",
    )
    key_prefix: str = Field("ssd", pattern=r"^[A-Za-z0-9._-]+$", description="first part of keys")
    embedded_port: int = Field(6390, ge=1, le=65535, description="port of the embedded server")
    embedded_max_bytes: int | None = Field(
        None,
        ge=EMBEDDED_MIN_BYTES,
        description="memory that the embedded server may use, also if it is running already; then "
        "it takes no more events, and deletes none; default: 2 GiB",
    )


class DetectionSettings(Settings):
    """What to detect, and how often: for a camera, unless its own table says otherwise."""

    model: str | None = Field(
        None,
        description="name from `ssd-worker models`; default: what the weights file says, else "
        "ssd_mobilenet_v2_oid",
    )
    weights: str | None = Field(
        None, description="checkpoint file, or 'coco'; default: those in the package"
    )
    score_threshold: float | None = Field(
        None, ge=0, lt=1, description="report detections scoring above this; default: the model's"
    )
    labels: Annotated[list[str] | None, NoDecode] = Field(
        None, description="publish only these, separated by commas; default: all"
    )
    fps: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="analyse at most this many frames per second of each source",
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _split_labels(cls, value: Any) -> Any:
        values = [value] if isinstance(value, str) else value
        if values is None:
            return None
        labels = [part.strip() for item in values for part in str(item).split(",")]
        if not all(labels):
            raise ValueError("expected labels separated by commas, such as Person,Car")
        return labels


class DetectorSettings(DetectionSettings, RedisSettings):
    """How to detect, and what a source may cost."""

    device: str = Field("auto", description="auto, cpu or cuda[:N]")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="numeric precision of the network; auto: bf16 if the hardware has it, else "
        "fp16 on a GPU and fp32 on a CPU",
    )
    compile: bool = Field(
        False,
        description="compile the network first: takes seconds to minutes, may pay off on a GPU",
    )
    hwaccel: Literal["auto", "cuda", "none"] = Field(
        "auto",
        description="where to decode frames; auto: on the GPU if detection runs there and it can "
        "decode, else on the CPU",
    )
    max_batch: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="maximum frames per batch; default: 4 per core on a CPU, 16 on a GPU",
    )

    watchdog_seconds: float = Field(
        120,
        ge=0,
        allow_inf_nan=False,
        description="exit with code 70 after this many seconds without progress while work is "
        "waiting; 0: never",
    )
    max_pixels: int = Field(
        Limits.max_pixels, ge=1, le=INT_MAX, description="maximum pixels per frame"
    )
    max_streams: int = Field(
        Limits.max_streams, ge=1, le=1000, description="maximum streams per file or camera"
    )
    max_bytes_without_frame: int = Field(
        Limits.max_bytes_without_frame,
        ge=1,
        description="maximum bytes to read without decoding a frame",
    )

    @property
    def limits(self) -> Limits:
        """What a source may cost."""
        return Limits(self.max_pixels, self.max_streams, self.max_bytes_without_frame)


class CameraDefaults(DetectionSettings, SecretsSettings):
    """What holds for a camera whose own table does not say."""

    transport: Transport = Field(
        "auto",
        description="how RTSP cameras send: tcp, udp, or auto: TCP, but UDP if a camera refuses it",
    )
    snapshots: bool = Field(
        False,
        description="publish a picture of each camera in Redis, for the dashboard: consider the "
        "privacy of the people in it",
    )
    snapshot_blur: bool = Field(
        False, description="blur snapshots until no face and no plate can be recognised"
    )


class SpoolPlace(StateSettings):
    """Where the spool is."""

    spool_dir: Path | None = Field(
        None,
        description="where events are kept on disk while Redis is unavailable; default: spool in "
        "--state-dir",
    )

    @property
    def spool_directory(self) -> Path:
        """The directory, or the default."""
        return (self.spool_dir or self.state_dir / "spool").expanduser()
