"""Publishing: events in, acknowledged writes to every sink, on a thread of its own.

Delivery: events go to each sink in the order in which they were submitted. A sink that is away is
tried again with the same events until it takes them; sinks drop what they have already, so nothing
is written twice. Here is what sinks and publishers promise; ``lossless`` has the publisher of a
replay, ``live`` that of a live run, with its ``spool``. Knows nothing of what a sink is.
"""

from collections.abc import Sequence
from typing import Protocol

from worker.events import Event


class Sink(Protocol):
    """Where events go."""

    name: str

    def publish(self, events: Sequence[Event]) -> None:
        """Write events, all or none per camera; return once they are written.

        Events that it has already it drops. Raises SinkUnavailable if they may be sent again,
        CameraRefused if those of one camera are of no use, and any other SinkError if none are.
        """
        ...

    def close(self) -> None:
        """Let go of connections and files; what was published stays."""
        ...


class Publisher(Protocol):
    """Takes a pipeline's events to its sinks."""

    @property
    def failure(self) -> Exception | None:
        """What ended the thread, if anything did."""
        ...

    @property
    def waiting(self) -> int:
        """Events that were submitted and are not published yet."""
        ...

    @property
    def refused(self) -> dict[str, str]:
        """Cameras whose events no sink may take any more, and why."""
        ...

    def progress(self) -> int:
        """Rises with all that the thread does, attempts that fail included."""
        ...

    def has_work(self) -> bool:
        """Whether events wait."""
        ...

    def start(self) -> None:
        """Begin to publish."""
        ...

    def submit(self, events: Sequence[Event]) -> bool:
        """Queue events; False if there is no room: submit them again."""
        ...

    def take_lost(self) -> dict[str, int]:
        """Events lost per camera since the last call, once there is room to tell of them."""
        ...

    def close(self, timeout: float) -> int:
        """Publish what waits for at most ``timeout`` seconds; return how many events are lost."""
        ...
