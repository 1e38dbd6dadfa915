"""When to retry a camera, and when the next camera may connect.

Takes how an attempt ended; gives seconds to wait. Knows no camera, and does not wait itself.
"""

import random
import threading
import time

FIRST_BACKOFF_SECONDS = 0.5
LAST_BACKOFF_SECONDS = 3.0
"""Longest time from the start of one attempt to the start of the next. Short, so that a camera is
up within 5 s after it answers again; a dead one costs its network a packet every 2 s or so."""
SLOW_BACKOFF_SECONDS = 30.0
SLOW_REASONS = ("unauthorized", "over_limit", "internal_error")
"""What an early retry makes worse: cameras lock accounts after too many attempts."""
STEADY_SECONDS = 5.0
"""A connection that lasted this long does not count as a failure; one that breaks at once does."""
MAX_DOUBLINGS = 10
CONNECT_INTERVAL_SECONDS = 0.01
"""Between two connects of the process: fifty cameras start within half a second, not all at once,
and pictures of cameras that are up are not delayed by others reconnecting."""


class Backoff:
    """Exponential backoff of one camera, up to a limit, with jitter, so that the cameras of one
    switch do not all reconnect at once.
    """

    def __init__(self) -> None:
        self._failures = 0

    def seconds(self, reason: str, *, attempt_seconds: float, up_seconds: float) -> float:
        """Seconds to wait after an attempt, of which ``up_seconds`` delivered frames.

        The attempt itself counts as waiting: after a timeout the next one follows soon.
        """
        if up_seconds >= STEADY_SECONDS:
            self._failures = 0
        self._failures += 1
        if reason in SLOW_REASONS:
            return _jittered(SLOW_BACKOFF_SECONDS)
        wait = _jittered(longest_backoff(self._failures)) - attempt_seconds
        return max(wait, _jittered(FIRST_BACKOFF_SECONDS))


def longest_backoff(failures: int) -> float:
    """Longest wait in seconds after ``failures`` in a row: doubled each time, up to a limit."""
    doublings = min(failures - 1, MAX_DOUBLINGS)  # a camera may be dead for months
    return min(FIRST_BACKOFF_SECONDS * float(2**doublings), LAST_BACKOFF_SECONDS)


def _jittered(longest: float) -> float:
    return random.uniform(longest / 2, longest)


class Turnstile:
    """Lets one camera after another connect; used by their threads."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._lock = threading.Lock()
        self._next = 0.0

    def seconds(self) -> float:
        """Seconds to wait before connecting. Asking takes the turn."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._interval_seconds
            return turn - now


CONNECTS = Turnstile(CONNECT_INTERVAL_SECONDS)
"""One per process: connects share its processor and its network."""
