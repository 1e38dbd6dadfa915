"""How far a consumer is behind, as metrics: lag and pending entries per camera.

Asks Redis in a thread of its own, every few seconds; a scrape gets what was last heard, and nothing
once that is too old. So no scrape waits for Redis, and none shows a lag of the past.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from worker.errors import WorkerError
from worker.health.run_state import Answer

ASK_SECONDS = 5.0
OLD_SECONDS = 15.0
"""Three answers in a row are missing by then."""


class Lagging(Protocol):
    """What is asked of a consumer."""

    def lag(self) -> Mapping[str, int | None]:
        """Entries not yet read, by camera; None: unknown. Raises WorkerError."""
        ...

    def pending(self) -> Mapping[str, int | None]:
        """Entries read and not acknowledged, by camera; None: unknown. Raises WorkerError."""
        ...


class _Heard(NamedTuple):
    at: float
    lag: Mapping[str, int | None]
    pending: Mapping[str, int | None]


class ConsumerLag(Collector):
    """The lag of one consumer, or of the group that it is in."""

    def __init__(self, consumer: Lagging, group: str | None) -> None:
        """``group``: None for a consumer without one, which has nothing pending."""
        self._consumer = consumer
        self._group = group
        self._heard: _Heard | None = None
        self._up: bool | None = None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin to ask, until ``stop``."""
        threading.Thread(target=self._ask_on, name="lag", daemon=True).start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopping.set()

    def ask(self) -> None:
        """Ask Redis now."""
        try:
            lag = self._consumer.lag()
            pending = {} if self._group is None else self._consumer.pending()
        except WorkerError:  # the consumer itself reports it
            self._up = False
        else:
            self._up, self._heard = True, _Heard(time.monotonic(), lag, pending)

    def ready(self) -> Answer:
        """Whether Redis answers."""
        if self._fresh() is None:
            return Answer(False, "not ready: Redis does not answer")
        return Answer(True, "ready")

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: which there are depends on Redis."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """What was heard last, unless it is too old."""
        if self._up is not None:
            help_text = "Whether Redis answered what it was last asked: 1 or 0"
            yield GaugeMetricFamily("ssd_worker_redis_up", help_text, self._up)
        heard = self._fresh()
        if heard is not None:
            yield self._family("lag", "Entries of the stream that were not read yet", heard.lag)
            if self._group is not None:
                text = "Entries that were read and are not acknowledged"
                yield self._family("pending", text, heard.pending)

    def _fresh(self) -> _Heard | None:
        heard = self._heard
        return None if heard is None or time.monotonic() - heard.at > OLD_SECONDS else heard

    def _family(self, name: str, text: str, values: Mapping[str, int | None]) -> Metric:
        family = GaugeMetricFamily(f"ssd_worker_consumer_{name}", text, labels=["camera", "group"])
        for camera_id, value in values.items():
            if value is not None:
                family.add_metric([camera_id, self._group or ""], value)
        return family

    def _ask_on(self) -> None:
        while not self._stopping.is_set():
            self.ask()
            self._stopping.wait(ASK_SECONDS)
