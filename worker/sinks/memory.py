"""A sink that keeps events in a list: for tests, and for use within another program."""

from collections.abc import Sequence

from worker.events import Event


class MemorySink:
    """Keeps the events whose (epoch, seq) is newer than the camera's last."""

    name = "memory"

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._last: dict[str, tuple[int, int]] = {}

    def publish(self, events: Sequence[Event]) -> None:
        """Keep what is new."""
        for event in events:
            position = (event.data.epoch, event.data.seq)
            last = self._last.get(event.data.camera_id)
            if last is None or position > last:
                self.events.append(event)
                self._last[event.data.camera_id] = position

    def close(self) -> None:
        """Nothing to release."""
