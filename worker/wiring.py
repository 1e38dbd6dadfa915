"""What `run` and `replay` put together alike: detector, Redis address, signals."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from worker.embedded import ensure_running
from worker.errors import UsageError
from worker.settings import DetectorSettings, RedisSettings

if TYPE_CHECKING:
    from worker.detection import FrameDetector


def resolve_redis_url(settings: RedisSettings, redis_url: str) -> str:
    """The URL to connect to; starts the embedded server if that is what was asked for."""
    if redis_url == "embedded":
        return ensure_running(settings.state_dir, settings.embedded_port)
    return redis_url


def check_model(settings: DetectorSettings) -> None:
    """Raise UsageError for a model or label that does not exist, before anything is started."""
    # torch takes seconds to import: only once the settings are known to be good.
    from ssd_core.errors import SsdError
    from ssd_core.models.zoo import get_spec
    from worker.detection import check_labels

    try:
        spec = get_spec(settings.model)
    except SsdError as error:
        raise UsageError(f"--model: {error}") from error
    if settings.labels is not None and settings.weights is None:
        check_labels(settings.labels, spec.labels[1:], spec.name)


def load_detector(settings: DetectorSettings) -> tuple["FrameDetector", int]:
    """The detector, and how many frames it takes at once."""
    from ssd_core import Detector
    from ssd_core.errors import SsdError
    from worker.detection import FrameDetector

    try:
        detector = Detector.load(
            settings.model,
            weights=settings.weights,
            device=settings.device,
            precision=settings.precision,
            score_threshold=settings.score_threshold,
        )
    except SsdError as error:
        raise UsageError(str(error)) from error
    frame_detector = FrameDetector(detector, settings.labels)
    return frame_detector, settings.max_batch or frame_detector.default_batch


@contextmanager
def on_stop_signals(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Call ``stop`` at SIGINT and SIGTERM; gives the list that the signals are noted in.

    The second signal ends the process the hard way.
    """
    received: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
