"""What `run` and `replay` put together alike: detector, Redis address, signals."""

import logging
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from worker.errors import UsageError
from worker.secrecy.names import fill_in
from worker.servers.embedded import HOST, ensure_running, watching_memory
from worker.settings.base import DetectorSettings, RedisSettings

log = logging.getLogger(__name__)

SECOND_SIGNAL_SECONDS = 1.0
"""Signals within this time of the first are one request to stop: `timeout -s INT` sends two within
milliseconds, and a supervisor's may meet the one that a terminal sends to the whole group."""

if TYPE_CHECKING:
    import torch

    from worker.pipeline.detection import FrameDetector


def resolve_redis_url(settings: RedisSettings, redis_url: str) -> str:
    """The URL to connect to; starts the embedded server if that is what was asked for."""
    if redis_url == "embedded":
        log.info("using the embedded Valkey on %s:%d", HOST, settings.embedded_port)
        return run_embedded(settings)
    return fill_in(redis_url, settings.secrets)


def run_embedded(settings: RedisSettings) -> str:
    """The URL of the embedded server, which runs after this."""
    return ensure_running(settings.state_dir, settings.embedded_port, settings.embedded_max_bytes)


def watching_embedded(settings: RedisSettings, redis_url: str) -> AbstractContextManager[None]:
    """Warn before the embedded server is full, if that is where events go."""
    return watching_memory(settings.embedded_port) if redis_url == "embedded" else nullcontext()


def check_model(settings: DetectorSettings) -> tuple[str, ...] | None:
    """The model's labels; None if they are only known once its weights are loaded.

    Raises UsageError for a model or label that does not exist, before anything is started.
    """
    # torch takes seconds to import: only once the settings are known to be good.
    from ssd_core.errors import SsdError
    from ssd_core.models.zoo import get_spec
    from worker.pipeline.detection import check_labels

    try:
        spec = get_spec(settings.model)
    except SsdError as error:
        raise UsageError(f"--model: {error}") from error
    if settings.weights is not None:
        return None
    check_labels(settings.labels or (), spec.labels[1:], spec.name)
    return spec.labels[1:]


@dataclass(frozen=True)
class DetectorSetup:
    """The detector, and how to feed it."""

    detector: "FrameDetector"
    max_batch: int
    """Frames it takes at once."""
    together: int
    """Frames of a replay that are computed together, on which results depend."""
    gpu: int | None
    """CUDA device that decodes frames for it; None: the CPU does."""


def load_detector(
    settings: DetectorSettings,
    thresholds: Collection[float | None] | None = None,
    *,
    alike: bool = False,
) -> DetectorSetup:
    """Load what the settings name, ready to run. Raises UsageError.

    ``thresholds``: those of the cameras, to run at the lowest; default: that of the settings.
    ``alike``: with the same results on any number of cores.
    """
    thresholds = [settings.score_threshold] if thresholds is None else thresholds
    import torch

    from ssd_core import Detector
    from ssd_core.errors import SsdError
    from worker.pipeline.detection import FrameDetector, check_labels

    try:
        device = prepare_device(settings.device)
        gpu, reason = _claim_decoding_gpu(settings, device)
        detector = Detector.load(
            settings.model,
            weights=settings.weights,
            device=str(device),
            precision=settings.precision,
            compile=settings.compile,
        )
        check_labels(settings.labels or (), detector.spec.labels[1:], detector.spec.name)
        frame_detector = FrameDetector(detector)
        frame_detector.score_threshold = frame_detector.lowest_threshold(thresholds)
        max_batch = settings.max_batch or frame_detector.default_batch
        together = frame_detector.compute_alike(max_batch) if alike else max_batch
        frame_detector.warm_up(max_batch)
    except SsdError as error:
        raise UsageError(str(error)) from error
    except torch.OutOfMemoryError as error:
        raise UsageError(
            f"--device {settings.device}: no memory left for the model: free memory on it, or "
            "use another device or a smaller model"
        ) from error
    if gpu is not None and not frame_detector.takes_planes:
        gpu, reason = None, "there are no Triton kernels for the detector"
    if gpu is not None:
        # Once more, now that PyTorch has the device: what is refused here would end every source.
        gpu, reason = _claim_decoding_gpu(settings, device)
    if gpu is None and settings.hwaccel == "cuda":
        raise UsageError(f"--hwaccel cuda: {reason}: use auto or none")
    if device.type == "cuda":
        where = "CPU" if gpu is None else "GPU, where it knows the codec"
        log.info("frames are decoded on the %s%s", where, reason and f": {reason}")
    return DetectorSetup(frame_detector, max_batch, together, gpu)


def prepare_device(name: str) -> "torch.device":
    """The device of that name; on a CPU with the cores that this process may use.

    Call it before anything is loaded: the memory that this process frees is kept from here on.
    Raises DeviceError.
    """
    import torch

    from ssd_core.cores import usable_cores
    from ssd_core.device import choose_device
    from ssd_core.runners.heap import keep_freed_memory

    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    device = choose_device(name)
    if device.type == "cpu":
        keep_freed_memory()
    return device


def _claim_decoding_gpu(
    settings: DetectorSettings, device: "torch.device"
) -> tuple[int | None, str]:
    """The CUDA device that decodes frames, or None and why not. Comes before the detector."""
    if settings.hwaccel == "none":
        return None, "--hwaccel none"
    if device.type != "cuda":
        return None, "the detector does not run on CUDA"
    # PyAV is for the sources to know; this asks one of them.
    from worker.sources.capabilities import claim_gpu

    gpu = device.index or 0
    reason = claim_gpu(gpu)
    return (None, reason) if reason else (gpu, "")


@contextmanager
def on_stop_signals(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Call ``stop`` at SIGINT and SIGTERM; gives the list that the signals are noted in.

    A signal that comes ``SECOND_SIGNAL_SECONDS`` or more after the first ends the process the hard
    way. After a signal the handlers stay: the process is about to end, and the rest of the same
    request must not interrupt its last steps.
    """
    received: list[int] = []
    first_at = 0.0

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal first_at
        now = time.monotonic()
        first_at = first_at or now
        received.append(number)
        if now - first_at >= SECOND_SIGNAL_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        if not received:
            for number, handler in before.items():
                signal.signal(number, handler)
