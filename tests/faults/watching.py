"""A LiveSource read in a thread, and its items with their arrival times."""

import itertools
import threading
import time

from tests.conftest import wait_until
from worker.frames import Frame, StreamDown, StreamUp
from worker.sources.live import LiveSource

SIZE = (120, 160)
BUSY_SECONDS = 1.0
"""Tolerance for other load on the machine."""


class Watch:
    def __init__(self, url, **options):
        self.items = []
        """(arrival by the monotonic clock, item)."""
        self.source = LiveSource("gate", url, SIZE, itertools.count(1000).__next__, **options)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def _read(self):
        for item in self.source:
            self.items.append((time.monotonic(), item))

    def stop(self, timeout=15):
        """Seconds until the source has ended."""
        started = time.monotonic()
        self.source.stop()
        self._thread.join(timeout)
        assert not self._thread.is_alive()
        return time.monotonic() - started

    def frames(self, since=0.0):
        return [i for at, i in list(self.items) if isinstance(i, Frame) and at >= since]

    def downs(self, since=0.0):
        return [i for at, i in list(self.items) if isinstance(i, StreamDown) and at >= since]

    def seconds_until(self, item):
        """From the first item on."""
        return next(at for at, i in list(self.items) if i is item) - self.items[0][0]

    def ups(self):
        return [i for _, i in list(self.items) if isinstance(i, StreamUp)]

    def wait_for_frames(self, count=5, since=0.0, timeout=20.0):
        return wait_until(
            lambda: len(f := self.frames(since)) >= count and f, timeout, f"{count} frames"
        )

    def wait_for_down(self, since=0.0, timeout=20.0):
        return wait_until(lambda: self.downs(since), timeout, "the loss")[-1]

    def seconds_to_full_rate(self, since, rate=20):
        """From then until a second of video has arrived at (nearly) the camera's rate."""
        wait_until(lambda: self._full_rate_at(since, rate), 30, "full rate")
        return self._full_rate_at(since, rate) - since

    def _full_rate_at(self, since, rate):
        times = [at for at, i in list(self.items) if isinstance(i, Frame) and at >= since]
        for first, last in zip(times, times[rate - 1 :], strict=False):
            if last - first < 1.25:
                return first
        return None


def wait_for_reason(watch, reason, since=0.0):
    return wait_until(
        lambda: next((d for d in watch.downs(since) if d.reason == reason), None), 20, reason
    )


def wait_for_visit(camera):
    seen = len(camera.visits)
    wait_until(lambda: len(camera.visits) > seen, 10, "the next attempt")
