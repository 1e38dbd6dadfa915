"""Now, by the clock of Redis: the one that the ids of entries are made of.

Set by one thread, read by any. Steps of this machine's clock do not matter.
"""

import time


class RedisClock:
    """Until it is set: this machine's time."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def set(self, seconds: float) -> None:
        """Redis says that it is this Unix time."""
        self._offset = seconds - time.monotonic()

    def now(self) -> float:
        """Unix seconds."""
        return time.monotonic() + self._offset
