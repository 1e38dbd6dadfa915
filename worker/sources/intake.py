"""Reads a camera's packets in a thread of its own, so that each is stamped when it arrives.

A packet that waits in a socket has no age: while decoding is slower than the camera, pictures would
become older without a sign of it. Here packets wait in a queue whose length is known. Takes what
FFmpeg reads, gives Arrivals in the same order, and the error that ended reading. Knows nothing of
decoding.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from worker.sources.arrivals import Arrival

MAX_WAITING_BYTES = 32 << 20
"""Ten seconds of a 4K camera at 25 Mbit/s; beyond it packets stay in the socket, while the reader,
seconds late by then, drops those that wait."""
POLL_SECONDS = 0.2
"""How often a thread that waits for the other looks whether the source was stopped."""
READ_WAITED_SECONDS = 0.01
"""A read that took this long has waited for the camera: nothing was left from before."""
QUIET_SECONDS = 0.05
"""A read that has waited this long, though the machine is busy, waits for the camera."""


class Intake:
    """The packets of one connection."""

    def __init__(
        self,
        packets: Iterator[Any],
        date: Callable[[Any, float], Arrival],
        name: str,
        *,
        silence_seconds: float,
        is_stopped: Callable[[], bool],
    ) -> None:
        """``date`` gives a packet its time; called in the thread that reads.

        A read that takes ``silence_seconds`` is the last: the next one would wait as long again.
        """
        self._silence_seconds = silence_seconds
        self._is_stopped = is_stopped
        self._packets = packets
        self._date = date
        self._waiting: deque[tuple[Arrival, float]] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._error: Exception | None = None
        self._ended = self._closed = self._caught_up = False
        self._read_packets = 0
        self._read_since = time.monotonic()
        self._thread = threading.Thread(target=self._read, name=name, daemon=True)

    def __enter__(self) -> "Intake":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End reading: the container may be closed then, and not before."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        # Else its owner, this and the traceback of the error refer to one another, and the memory
        # of a decoder waits for Python's search for cycles, which in a worker comes once in hours.
        self._packets, self._date, self._error = iter(()), Arrival, None

    def __iter__(self) -> Iterator[tuple[Arrival, float]]:
        """Arrivals, and how many seconds each was waited for. Raises what ended reading."""
        while True:
            with self._changed:
                while not self._waiting and not self._ended and not self._is_over():
                    self._changed.wait(POLL_SECONDS)
                if self._is_over() or not self._waiting:
                    break
                arrival, seconds = self._waiting.popleft()
                self._waiting_bytes -= arrival.packet.size
                self._changed.notify_all()
            yield arrival, seconds
        if self._error is not None and not self._is_over():
            raise self._error

    def take_left(self) -> list[Arrival]:
        """The arrivals that still wait when reading has ended."""
        left = [arrival for arrival, _ in self._waiting]
        self._waiting.clear()
        self._waiting_bytes = 0
        return left

    def _is_over(self) -> bool:
        return self._closed or self._is_stopped()

    @property
    def read_seconds(self) -> float:
        """How long the read that goes on, or has failed, has waited."""
        return time.monotonic() - self._read_since

    def wait_until_caught_up(self, seconds: float) -> None:
        """Wait until a read waits, for at most so long.

        What FFmpeg has read to look at the streams, or a server has kept, comes at once: how old it
        is shows only by the packet that comes when it is captured.
        """
        give_up = time.monotonic() + seconds
        with self._changed:
            while time.monotonic() < give_up and not (self._ended or self._is_over()):
                if self._caught_up or self.read_seconds >= QUIET_SECONDS:
                    return
                self._changed.wait(READ_WAITED_SECONDS)

    def _read(self) -> None:
        try:
            self._read_since = time.monotonic()
            for packet in self._packets:
                now = time.monotonic()
                seconds = now - self._read_since
                if not self._put(self._date(packet, now), seconds):
                    return
                if seconds >= self._silence_seconds:
                    return
                self._read_since = time.monotonic()
        except Exception as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, arrival: Arrival, seconds: float) -> bool:
        with self._changed:
            while self._waiting_bytes > MAX_WAITING_BYTES and not self._is_over():
                self._changed.wait(POLL_SECONDS)
            self._waiting.append((arrival, seconds))
            self._waiting_bytes += arrival.packet.size
            # Not the first one: the thread itself took its time to start.
            self._caught_up |= seconds >= READ_WAITED_SECONDS and self._read_packets > 0
            self._read_packets += 1
            self._changed.notify_all()
            return not self._is_over()
