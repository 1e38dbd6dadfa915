"""One sink's outage: logs its start and end, and computes when to retry.

Takes the sink's failures and its next success; gives waits with exponential backoff. Used by one
thread.
"""

import logging
import time

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 2.0


class Outage:
    """The outages of one sink."""

    def __init__(self, name: str) -> None:
        """``name`` of the sink, for the log."""
        self._name = name
        self._since: float | None = None
        self._delay: float

    def __bool__(self) -> bool:
        """Whether the sink is unavailable."""
        return self._since is not None

    def failed(self, error: Exception) -> float:
        """A write failed; returns the seconds to wait before the next."""
        if self._since is None:
            self._since = time.monotonic()
            self._delay = FIRST_RETRY_SECONDS
            log.warning("%s is unavailable, events are queued: %s", self._name, error)
        delay = self._delay
        self._delay = min(delay * 2, LAST_RETRY_SECONDS)
        return delay

    def end(self) -> None:
        """A write succeeded."""
        if self._since is not None:
            seconds = time.monotonic() - self._since
            log.info("%s is available again after %.1f s", self._name, seconds)
        self._since = None
