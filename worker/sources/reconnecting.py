"""When to try a camera again, and when to try the next one.

Takes how an attempt went; gives seconds to wait. Knows no camera and waits for nothing itself.
"""

import random
import threading
import time

FIRST_BACKOFF_SECONDS = 0.5
LAST_BACKOFF_SECONDS = 3.0
"""From the start of one attempt to the start of the next, at most. Short, because a camera is to be
back 5 s after it answers again; a dead one costs its network a packet every 2 s or so."""
SLOW_BACKOFF_SECONDS = 30.0
SLOW_REASONS = ("unauthorized", "over_limit", "internal_error")
"""What trying again soon makes worse: cameras lock accounts that are tried too often."""
STEADY_SECONDS = 5.0
"""A connection that held for so long is no failure. One that breaks at once is, each time."""
MAX_DOUBLINGS = 10
CONNECT_INTERVAL_SECONDS = 0.01
"""Between two connects of the process: fifty cameras start within half a second, not all at once,
and the pictures of those that are up are not late because others come back."""


class Backoff:
    """The waits of one camera: doubled with every failure up to a limit, and jittered, so that
    cameras behind one switch do not come back at once.
    """

    def __init__(self) -> None:
        self._failures = 0

    def seconds(self, reason: str, *, attempt_seconds: float, up_seconds: float) -> float:
        """How long to wait after an attempt that took so long, ``up_seconds`` of it with frames.

        What the attempt took counts as waiting: after a timeout the next one follows soon.
        """
        if up_seconds >= STEADY_SECONDS:
            self._failures = 0
        self._failures += 1
        if reason in SLOW_REASONS:
            return _jittered(SLOW_BACKOFF_SECONDS)
        wait = _jittered(longest_backoff(self._failures)) - attempt_seconds
        return max(wait, _jittered(FIRST_BACKOFF_SECONDS))


def longest_backoff(failures: int) -> float:
    """Seconds to wait at most after so many failures in a row, doubled each time up to a limit."""
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
        """How long to wait before connecting. The turn is taken by asking."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._interval_seconds
            return turn - now


CONNECTS = Turnstile(CONNECT_INTERVAL_SECONDS)
"""Of the process: what the connects share is its processor and its network."""
