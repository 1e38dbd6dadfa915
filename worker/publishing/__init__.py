"""Publishing: events in, acknowledged writes to every sink, on a thread of its own.

Delivery: events are written to each sink in the order in which they were submitted. A sink that is
unavailable is retried with the same events until it takes them; sinks drop what they have already,
so nothing is written twice. Here are the protocols of sinks and publishers; ``lossless`` is the
publisher of a replay, ``live`` that of a live run, with its ``spool``. Depends on no concrete sink.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from worker.events import Event


class Sink(Protocol):
    """Where events go."""

    name: str

    def publish(self, events: Sequence[Event]) -> None:
        """Write events, all or none per camera; return once they are written.

        Drops events that it has already. Raises SinkUnavailable if a retry may succeed,
        CameraRefused if one camera's events will never be accepted, and any other SinkError if none
        will.
        """
        ...

    def close(self) -> None:
        """Close connections and files; what was published stays."""
        ...


class Publisher(Protocol):
    """Takes a pipeline's events to its sinks."""

    @property
    def failure(self) -> Exception | None:
        """The error that ended the thread, if any."""
        ...

    @property
    def waiting(self) -> int:
        """Events that were submitted and are not published yet."""
        ...

    @property
    def behind_seconds(self) -> float:
        """How long the oldest live event has waited to be published; 0 if none waits."""
        ...

    @property
    def refused(self) -> dict[str, str]:
        """Cameras whose events are not accepted any more, and why."""
        ...

    @property
    def held(self) -> dict[str, str]:
        """Cameras that other workers watch at present, and what to do about it."""
        ...

    def may_watch(self, camera_id: str) -> bool:
        """Whether an added camera may be watched: no other worker does."""
        ...

    def progress(self) -> int:
        """Rises with every attempt of the thread, even one that fails."""
        ...

    def has_work(self) -> bool:
        """Whether events wait."""
        ...

    def start(self) -> None:
        """Begin to publish."""
        ...

    def add_cameras(self, camera_ids: Sequence[str]) -> None:
        """Publish for these cameras too, starting with what an earlier run left of them."""
        ...

    def remove_cameras(self, camera_ids: Sequence[str]) -> None:
        """Stop waiting for cameras that were added and not watched yet."""
        ...

    def submit(self, events: Sequence[Event]) -> bool:
        """Queue events; False if the queue is full: submit them again."""
        ...

    def take_lost(self, camera_ids: Collection[str]) -> dict[str, int]:
        """Events lost of these cameras since the last call, once there is room to report them."""
        ...

    def close(self, timeout: float) -> int:
        """Publish what waits for at most ``timeout`` seconds; return how many events are lost."""
        ...
