"""What `--http` starts for `run` and `replay`: the server, and the observer whose counts it shows.

Without the option nothing is measured, and nothing of it is imported.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from worker.health.run_state import STALLED_SECONDS, Run
from worker.observing import NOBODY, Observer
from worker.settings.base import HttpSettings

if TYPE_CHECKING:
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
    """How long a part may make no progress before the process counts as stuck."""
    return min(STALLED_SECONDS, watchdog_seconds or STALLED_SECONDS)


@contextmanager
def serving_health(settings: HttpSettings) -> Iterator[Health]:
    """Serve what `--http` asks for meanwhile. Raises UsageError if it cannot listen there."""
    address = settings.http_address
    if address is None:
        yield Health()
        return
    from prometheus_client import CollectorRegistry

    from worker.health.endpoints import endpoints
    from worker.health.exposition import register
    from worker.health.http_server import serving
    from worker.health.measurements import Measurements
    from worker.health.run_state import RunState

    registry = CollectorRegistry()
    state = RunState(Measurements(registry))
    register(registry, state)
    with serving(address, endpoints(state, registry), state.look) as port:
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        log.info("metrics and health are at http://%s:%d/", host, port)
        yield Health(state)
