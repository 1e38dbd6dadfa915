"""The settings of every command: one field per option gives one flag, variable and TOML key.

Checks what can be seen in the settings themselves. Opens no file; the cameras themselves are read
in ``worker.settings.cameras``.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from platformdirs import user_state_path
from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, CliPositionalArg, NoDecode, SettingsConfigDict

from worker.events import CameraState
from worker.sources.limits import Limits

ENV_PREFIX = "SSD_WORKER_"
LIVE_STREAM_MAXLEN = 100_000
INT_MAX = 2**31 - 1
"""The maximum number of pixels that FFmpeg itself accepts."""
SPOOL_MAX_BYTES = 1 << 30
"""About 700,000 events of 1.5 kB: eight hours of one 25 fps camera that always sees something."""

EMBEDDED_MIN_BYTES = 10_000_000
"""An empty Valkey takes 1 MB, each client up to 1 MB more for a moment."""

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


class RunSettings(DetectorSettings, CameraDefaults, SpoolPlace):
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


class ReplaySettings(DetectorSettings):
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


class TrainSettings(Settings):
    """Train a model for own classes; --weights takes what comes out."""

    data: Sources = Field(
        default=[],
        description="labelled images: COCO JSON, folder in Pascal VOC's form, or the .json of a "
        "replay beside its recording; several are one data set",
    )
    images: Path | None = Field(
        None, description="folder of the images or recordings; default: beside the data"
    )
    val: Path | None = Field(
        None,
        description="labelled images to measure AP on after each epoch; the best epoch is then the "
        "one with the highest AP, else the one with the lowest loss",
    )
    val_images: Path | None = Field(
        None, description="folder of the images of --val; default: that of --images"
    )
    output: Path | None = Field(None, description="weights file to write: .safetensors")
    model: str | None = Field(
        None,
        description="name from `ssd-worker models`; default: what the weights file says, else "
        "ssd_mobilenet_v2_oid",
    )
    weights: str | None = Field(
        None,
        description="weights to start from: file, or 'coco'; default: those in the package",
    )
    epochs: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="times that each image is seen; default: as many as make 2,000 steps, but "
        "12 to 200",
    )
    batch: int = Field(16, ge=1, le=4096, description="images at once")
    accumulate: int = Field(
        1,
        ge=1,
        le=4096,
        description="batches per step, for large steps in little memory",
    )
    lr: float | None = Field(
        None,
        gt=0,
        le=10,
        allow_inf_nan=False,
        description="highest learning rate; default: 0.001, with VGG16 0.0001, lower for steps of "
        "fewer than 16 images",
    )
    freeze: int = Field(
        0, ge=0, le=100, description="keep the first N of the backbone's 5 stages as they are"
    )
    seed: int = Field(
        0,
        ge=0,
        le=2**32 - 1,
        description="what the order of images and their augmentation depend on",
    )
    resume: bool = Field(
        False, description="go on after the last whole epoch; from the start if there is none"
    )
    workers: int | None = Field(
        None,
        ge=0,
        le=256,
        description="processes that read images; 0: none besides the training; default: one per "
        "core but one, at most 8",
    )
    device: str = Field("auto", description="auto, cpu or cuda[:N]")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="of the network's multiplications; auto: bf16 on a GPU that has it, else fp32",
    )
    half: bool = Field(False, description="store the weights as fp16, in half the space")
    preview: Path | None = Field(
        None,
        description="PNG to draw augmented images with their boxes into; without --output, that "
        "is all",
    )
    skip_invalid: bool = Field(
        False, description="leave out what is wrong in the data, instead of refusing it"
    )
    overwrite: bool = Field(
        False, description="replace an output that exists, and start again unless --resume"
    )

    @model_validator(mode="after")
    def _says_what_to_write(self) -> "TrainSettings":
        if not self.data:
            raise ValueError("no labelled images to learn from: give DATA, such as labels.json")
        if self.output is None and self.preview is None:
            raise ValueError("give --output FILE.safetensors, or --preview FILE.png")
        if self.output is not None and self.output.suffix != ".safetensors":
            raise ValueError(f"--output {self.output}: expected .safetensors")
        if self.preview is not None and self.preview.suffix != ".png":
            raise ValueError(f"--preview {self.preview}: expected .png")
        return self


class SubscribeSettings(RedisSettings):
    """Print events as JSON Lines."""

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


def _only_one(value: Any) -> Any:
    """A list of one is that one: a file for several commands may list the data of others."""
    if isinstance(value, list) and len(value) == 1:
        return value[0]
    if isinstance(value, list):
        raise ValueError("evaluate takes one data set: name it as the first argument")
    return value


class EvaluateSettings(Settings):
    """Measure a model on labelled images, or compare two."""

    model_config = SettingsConfigDict(cli_shortcuts={"as-json": "json"})

    data: Annotated[CliPositionalArg[str], BeforeValidator(_only_one)] = Field(
        "",
        description="labelled images: COCO JSON, folder in Pascal VOC's form, or the .json of a "
        "replay beside its recording",
    )
    checkpoints: CliPositionalArg[list[str]] = Field(
        default=[],
        description="weights file, 'coco', or the name of a model for its weights in the package; "
        "two are compared; default: the weights in the package",
    )
    images: Path | None = Field(
        None, description="folder of the images or recordings; default: beside the data"
    )
    model: str | None = Field(
        None,
        description="name from `ssd-worker models`; default: what the weights file says, else "
        "ssd_mobilenet_v2_oid",
    )
    weights: str | None = Field(
        None, description="weights file, or 'coco': another way to name one"
    )
    metric: Literal["coco", "voc07"] = Field(
        "coco",
        description="coco: AP over IoU 0.5 to 0.95; voc07: Pascal VOC 2007's, 11 points at IoU 0.5",
    )
    as_json: bool = Field(False, description="print one JSON object instead of tables")
    plots: Path | None = Field(
        None,
        description="directory for pictures: precision over recall, the worst misses and false "
        "alarms",
    )
    score_threshold: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="give precision and recall of detections scoring above this; default: the "
        "model's",
    )
    device: str = Field("auto", description="auto, cpu or cuda[:N]")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="numeric precision of the network; auto: bf16 if the hardware has it, else "
        "fp16 on a GPU and fp32 on a CPU",
    )
    max_batch: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="maximum images per batch; default: 4 per core on a CPU, 16 on a GPU",
    )
    skip_invalid: bool = Field(
        False, description="leave out what is wrong in the data, instead of refusing it"
    )

    @model_validator(mode="after")
    def _says_what_to_measure(self) -> "EvaluateSettings":
        if not self.data:
            raise ValueError("no labelled images to measure on: give DATA, such as labels.json")
        if self.checkpoints and self.weights is not None:
            raise ValueError("weights are named twice: by --weights and after DATA: name them once")
        if len(self.checkpoints) > 2:
            raise ValueError("at most two weights files can be compared: give two of them")
        if len(self.checkpoints) == 2 and self.metric == "voc07":
            raise ValueError("two weights files are compared in COCO's AP: leave out --metric")
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
    "cameras": CamerasSettings,
    "evaluate": EvaluateSettings,
    "spool": SpoolSettings,
    "forget": ForgetSettings,
    "models": ModelsSettings,
    "doctor": DoctorSettings,
}
