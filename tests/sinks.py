"""Sinks that fail, for tests."""

import threading

from worker.errors import SinkUnavailable
from worker.sinks.memory import MemorySink


class FlakySink(MemorySink):
    """Unavailable until ``back`` is set; then it accepts everything."""

    def __init__(self):
        super().__init__()
        self.back = threading.Event()
        self.tries = 0

    def publish(self, events):
        self.tries += 1
        if not self.back.is_set():
            raise SinkUnavailable("away")
        super().publish(events)


class HangingSink(MemorySink):
    """Each write begins, and ends once it is released."""

    def __init__(self):
        super().__init__()
        self.entered, self.released = threading.Event(), threading.Event()

    def publish(self, events):
        self.entered.set()
        assert self.released.wait(20)
        super().publish(events)


class DeduplicatingSink(FlakySink):
    """Drops events that it already has, as the sinks of the worker do."""

    def publish(self, events):
        have = {(e.data.camera_id, e.data.epoch, e.data.seq) for e in self.events}
        super().publish(
            [e for e in events if (e.data.camera_id, e.data.epoch, e.data.seq) not in have]
        )
