"""How a run is doing now: whether it makes progress, is ready, and what each camera does.

Takes the parts of a run as they come up, and the counts of its observer; gives answers for probes
and the table of cameras. Asks no server, so that no answer waits for one. Knows no HTTP.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from worker.events import CameraState, ModelInfo
from worker.secrecy.redaction import redact

if TYPE_CHECKING:  # they import prometheus_client and NumPy, which not every command needs
    from worker.health.measurements import CameraCounts, Measurements
    from worker.pipeline.cameras import CameraRecord, CameraRecords
    from worker.pipeline.watchdog import Watched

STALLED_SECONDS = 30.0
"""Without progress while work waits: far above any batch at the default settings, and early enough
for a supervisor to act before the watchdog does."""
REDIS = "Redis"
"""The name of the sink that is Redis."""
SHOWN = 5
"""Cameras that one line names."""


class Answer(NamedTuple):
    """What a probe gets."""

    ok: bool
    why: str
    """One line."""


class Waits(Protocol):
    """What is asked of a publisher."""

    @property
    def refused(self) -> Mapping[str, str]:
        """Cameras whose events are not accepted any more, and why."""
        ...

    @property
    def held(self) -> Mapping[str, str]:
        """Cameras that other workers watch at present, and what to do about it."""
        ...


class Loaded(Protocol):
    """What is asked of the detector."""

    @property
    def model(self) -> ModelInfo:
        """The model's name and digest."""
        ...

    @property
    def place(self) -> tuple[str, str]:
        """Device and precision."""
        ...

    @property
    def gpu_memory_bytes(self) -> int | None:
        """Memory held on a GPU; None on a CPU."""
        ...


class Spooled(Protocol):
    """What is asked of a spool."""

    def __len__(self) -> int: ...

    @property
    def size_bytes(self) -> int:
        """Bytes that wait."""
        ...


@dataclass(frozen=True)
class Run:
    """A pipeline at work: over cameras, or over one recording."""

    records: "CameraRecords"
    publisher: Waits
    watched: "Sequence[Watched]"
    """What should make progress."""
    is_replay: bool
    uses_redis: bool = True
    keeps_events: Callable[[], bool] = lambda: False
    """Whether events are safe while Redis is unavailable."""
    spool: Spooled | None = None
    stalled_seconds: float = STALLED_SECONDS


@dataclass
class _Progress:
    """What a part was last seen at, and since when."""

    part: "Watched"
    since: float
    seen: Any = None


class CameraView(NamedTuple):
    """One camera as it is now."""

    camera_id: str
    state: CameraState
    reason: str
    detail: str
    since: datetime
    is_up: bool
    frame_age_seconds: float | None
    """Since the newest analysed picture was captured; None unless it is up."""
    lag_seconds: float | None
    """How old its newest picture was when it was analysed; None unless it is up."""
    counts: "CameraCounts"


class RunState:
    """The state of one process; read by the threads of the HTTP server."""

    def __init__(
        self, measurements: "Measurements", clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``clock`` is the monotonic one, by which frames are captured."""
        self.measurements = measurements
        self._clock = clock
        self.detector: Loaded | None = None
        """None until it is loaded."""
        self.run: Run | None = None
        """None until there is one; the newest, in a replay of several recordings."""
        self._progress: list[_Progress] = []

    def watch(self, run: Run) -> None:
        """A run is about to begin."""
        self._progress = [_Progress(part, self._clock()) for part in run.watched]
        self.run = run

    def look(self) -> None:
        """Note the progress so far; to be called often, whether or not anybody asks."""
        for part in self._progress:
            now = part.part.progress()
            if now != part.seen or not part.part.has_work():
                part.seen, part.since = now, self._clock()

    def alive(self) -> Answer:
        """Whether the process makes progress, or has nothing to do."""
        run = self.run
        if run is None:
            return Answer(True, "alive: starting")
        self.look()
        now = self._clock()
        seconds = max((now - part.since for part in self._progress), default=0.0)
        if seconds > run.stalled_seconds:
            return Answer(False, f"stalled: no progress for {seconds:.0f} s with work waiting")
        return Answer(True, "alive")

    def ready(self) -> Answer:
        """Whether frames are analysed, and what is detected is published or kept."""
        run = self.run
        if self.detector is None:
            return Answer(False, "not ready: the model is loading")
        if run is None:
            return Answer(False, "not ready: starting")
        redis_up = self.measurements.sinks_up.get(REDIS)
        if run.uses_redis and redis_up is None:
            return Answer(False, "not ready: Redis has not answered yet")
        if redis_up is False and not run.keeps_events():
            return Answer(False, "not ready: Redis is unavailable, and events are not kept on disk")
        if any(not up for sink, up in self.measurements.sinks_up.items() if sink != REDIS):
            return Answer(False, "not ready: the output file cannot be written")
        if not run.is_replay and (problem := self._no_camera()):
            return Answer(False, f"not ready: {problem}")
        if redis_up is False:
            return Answer(True, "ready: Redis is unavailable, events are spooled to disk")
        return Answer(True, "ready")

    def cameras(self) -> Iterator[CameraView]:
        """The cameras that are wanted, in the order of their ids."""
        run = self.run
        if run is None:
            return
        held, refused = run.publisher.held, run.publisher.refused
        now = self._clock()
        records = [record for record in run.records if record.wanted]
        self.measurements.forget_all_but({record.camera_id for record in run.records})
        for record in sorted(records, key=lambda record: record.camera_id):
            yield _view(record, held, refused, self.measurements.of(record.camera_id), now)

    def table(self) -> dict[str, Any]:
        """The cameras as JSON."""
        now = self._clock()
        return {
            "time": _utc(datetime.now(UTC)),
            "cameras": [_row(view, now) for view in self.cameras()],
        }

    def _no_camera(self) -> str:
        """Why there is no camera that is up; "" if there is one."""
        views = list(self.cameras())
        if any(view.is_up for view in views):
            return ""
        if not views:
            return "there is no camera yet"
        down = ", ".join(f"{view.camera_id}: {view.reason}" for view in views[:SHOWN])
        more = f" and {len(views) - SHOWN} more" if len(views) > SHOWN else ""
        return f"no camera is up ({down}{more})"


def _view(
    record: "CameraRecord",
    held: Mapping[str, str],
    refused: Mapping[str, str],
    counts: "CameraCounts",
    now: float,
) -> CameraView:
    camera_id = record.camera_id
    state, reason, detail = record.state, record.reason, record.detail
    if camera_id in refused:
        detail = refused[camera_id]
    elif camera_id in held:
        reason, detail = "held", held[camera_id]
    is_up = state in ("up", "degraded")
    captured_at, lag = record.captured_at, record.lag_seconds
    age = None if captured_at is None or not is_up else max(now - captured_at, 0.0)
    return CameraView(
        camera_id, state, reason, detail, record.since, is_up, age, lag if is_up else None, counts
    )


def _row(view: CameraView, now: float) -> dict[str, Any]:
    counts = view.counts
    return {
        "id": view.camera_id,
        "state": view.state,
        "reason": view.reason,
        "detail": redact(view.detail),
        "since": _utc(view.since),
        "fps": _rounded(counts.fps(now) if view.is_up else None),
        "latency_seconds": _rounded(counts.latency_seconds(now) if view.is_up else None),
        "frame_age_seconds": _rounded(view.frame_age_seconds),
        "lag_seconds": _rounded(view.lag_seconds),
        "reconnects_last_hour": counts.reconnects_last_hour(now),
        "stalls_last_hour": counts.stalls_last_hour(now),
        "frames": {
            "received": counts.received,
            "analysed": counts.analysed,
            "dropped": counts.late + counts.replaced,
            "skipped": counts.skipped,
        },
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _utc(time_: datetime) -> str:
    return time_.isoformat(timespec="milliseconds").replace("+00:00", "Z")
