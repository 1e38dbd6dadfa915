"""A sink whose writes and failures are reported to an observer.

Delivery is that of the sink inside: every call is passed on, every error comes back as it is.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from worker.errors import CameraRefused, SinkUnavailable
from worker.events import Event
from worker.observing import Observer
from worker.publishing import Sink
from worker.publishing.ownership import Bid, Holder, HoldsOwners


class ObservedSink:
    """Any sink."""

    def __init__(self, sink: Sink, observer: Observer) -> None:
        self.name = sink.name
        self._sink = sink
        self._observer = observer

    def publish(self, events: Sequence[Event]) -> None:
        """See ``Sink``."""
        began = time.monotonic()
        with self._failures():
            self._sink.publish(events)
        if events:  # else nobody was asked
            self._observer.published(self.name, events, time.monotonic() - began)

    def close(self) -> None:
        """See ``Sink``."""
        self._sink.close()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except SinkUnavailable:
            self._observer.sink_failed(self.name)
            raise


class OwningSink(Sink, HoldsOwners, Protocol):
    """A sink that knows the owners of cameras."""


class ObservedOwningSink(ObservedSink):
    """A sink that knows the owners of cameras: what it answers of them tells that it is there."""

    def __init__(self, sink: OwningSink, observer: Observer) -> None:
        super().__init__(sink, observer)
        self._owners: HoldsOwners = sink

    def own(self, bids: Mapping[str, Bid]) -> Mapping[str, Holder | CameraRefused]:
        """See ``HoldsOwners``."""
        with self._failures():
            answers = self._owners.own(bids)
        self._observer.sink_answered(self.name)
        return answers
