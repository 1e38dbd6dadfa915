"""What `--http` starts: the server, and the observer whose counts it shows, or a consumer's lag.

Without the option nothing is measured, and Prometheus's client is not imported.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from worker.health.run_state import STALLED_SECONDS, Run
from worker.observing import NOBODY, Observer
from worker.settings.base import HttpSettings

if TYPE_CHECKING:
    from worker.health.consumer_lag import Lagging
    from worker.health.run_state import RunState
    from worker.pipeline.detection import FrameDetector

log = logging.getLogger(__name__)


class Health:
    """What a command reports to, whether or not anybody asks."""

    def __init__(self, state: "RunState | None" = None) -> None:
        """Without a ``state`` nothing is kept."""
        self._state = state
        self.observer: Observer = NOBODY if state is None else state.measurements

    def loaded(self, detector: "FrameDetector") -> None:
        """The model is ready; measure its steps."""
        if self._state is not None:
            self._state.detector = detector
            detector.report_stages(self.observer.stage)

    def watch(self, run: Run) -> None:
        """A run begins."""
        if self._state is not None:
            self._state.watch(run)


def stalled_seconds(watchdog_seconds: float) -> float:
    """How long a part may make no progress before the process counts as stuck.

    Half of the watchdog's time at most: a probe is to see it before the watchdog ends the process.
    """
    return min(STALLED_SECONDS, watchdog_seconds / 2 or STALLED_SECONDS)


@contextmanager
def serving_health(settings: HttpSettings) -> Iterator[Health]:
    """Serve what `--http` asks for meanwhile. Raises UsageError if it cannot listen there."""
    address = settings.http_address
    if address is None:
        yield Health()
        return
    from worker.health.endpoints import endpoints
    from worker.health.exposition import WorkerCollector, new_registry
    from worker.health.http_server import serving
    from worker.health.measurements import Measurements
    from worker.health.run_state import RunState

    registry = new_registry()
    state = RunState(Measurements(registry))
    registry.register(WorkerCollector(state))
    with serving(address, endpoints(state, registry), state.look) as port:
        _report(address[0], port)
        yield Health(state)


@contextmanager
def serving_lag(settings: HttpSettings, consumer: "Lagging", group: str | None) -> Iterator[None]:
    """Serve a consumer's lag meanwhile. Raises UsageError if it cannot listen there."""
    address = settings.http_address
    if address is None:
        yield
        return
    from worker.health.consumer_lag import ConsumerLag
    from worker.health.endpoints import consumer_endpoints
    from worker.health.exposition import new_registry
    from worker.health.http_server import serving

    registry = new_registry()
    lag = ConsumerLag(consumer, group)
    registry.register(lag)
    with serving(address, consumer_endpoints(lag.ready, registry)) as port:
        _report(address[0], port)
        lag.start()
        try:
            yield
        finally:
            lag.stop()


def _report(host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    log.info("metrics and health are at http://%s:%d/", shown, port)
