"""Reads the streams of many cameras: what reading with and without a group have in common.

Raises what redis-py raises, for the consumer to retry. An error of one stream stays with it: a
camera whose key is not a stream is set aside, and tried again from time to time.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from worker.consuming.entries import Entry, entries_of
from worker.servers.address import RedisClient, is_cluster

log = logging.getLogger(__name__)

READ_COUNT = 10
"""Entries per camera and read. Entries queued behind a slow handler count as idle: unless ten
events of each camera are handled within ``claim_after_seconds``, other consumers get them too."""
SET_ASIDE_SECONDS = 10.0
"""How often a camera that was set aside is tried again."""
OF_ONE_STREAM = ("WRONGTYPE", "NOGROUP", "UNBLOCKED")
"""Errors that one stream causes, though those for many do not say which. UNBLOCKED: it was deleted
or replaced while the server waited for it; if that lasts, reading it alone gives another error."""


def is_of_one_stream(error: ResponseError) -> bool:
    """Whether an error is about one stream, so that the others can still be read."""
    return str(error).startswith(OF_ONE_STREAM)


def says_missing(error: ResponseError) -> bool:
    """Whether an error says that there is nothing under a key."""
    return "no such key" in str(error) or "requires the key to exist" in str(error)


@dataclass
class Stream:
    """The stream of one camera, and how far it has been read."""

    camera_id: str
    name: str
    position: str
    """The id of the last entry that was read; before the first one, where to begin."""
    was_read: bool = False
    """Whether ``position`` is the id of an entry that was read."""
    is_set_aside: bool = False
    try_again_at: float = 0.0
    """When to look at the key of a camera that is set aside."""
    history: str | None = None
    """In a group: own pending entries after this id are to be read; None: all have been."""
    claim_cursor: bytes | None = None
    """In a group: how far the current round of claims has come; None: it is over."""


class StreamReader(ABC):
    """The entries of streams, those of each stream in order."""

    def __init__(self, client: RedisClient, server: str) -> None:
        self.streams: dict[str, Stream] = {}
        self.lacks_streams = False
        """Whether a stream was deleted, so that it is no longer read."""
        self._client = client
        self._server = server
        self._cluster = is_cluster(client)

    @property
    def must_poll(self) -> bool:
        """Whether ``read`` cannot wait for entries, so that its caller has to."""
        return self._cluster or all(stream.is_set_aside for stream in self.streams.values())

    def add(self, camera_id: str, name: str, start: str) -> None:
        """Read another stream from an entry id, or from ``$``, its end now."""
        self.streams[name] = stream = Stream(camera_id, name, start)
        try:
            self._start(stream)
        except ResponseError as error:
            self._deal_with(stream, error)

    @abstractmethod
    def read(self, block_seconds: float) -> list[Entry]:
        """The next entries; none if none arrive within ``block_seconds``."""

    @abstractmethod
    def passed(self, entry: Entry, *, to_user: bool) -> None:
        """Note that the user has got an entry, or that it was skipped."""

    @abstractmethod
    def settle(self, skipped: Sequence[Entry]) -> None:
        """Be done with entries that the user does not get."""

    @abstractmethod
    def restart(self) -> None:
        """Deliver again what the user has not got, or not acknowledged."""

    @abstractmethod
    def lost_reply(self) -> None:
        """Note that a call failed: Redis may have executed it."""

    @abstractmethod
    def recovered(self) -> None:
        """Note that Redis answers again."""

    @abstractmethod
    def _start(self, stream: Stream) -> None:
        """Prepare to read a stream; raises ResponseError if its key is not one."""

    @abstractmethod
    def _call(self, positions: dict[str, Any], block_ms: int | None, count: int) -> Any:
        """Read entries after these positions."""

    @abstractmethod
    def _next_of(self, stream: Stream) -> str:
        """The position to read new entries after."""

    @abstractmethod
    def _group_is_gone(self, stream: Stream) -> None:
        """Go on after a stream, or the group in it, was deleted."""

    def _active(self) -> list[Stream]:
        """The streams that can be read now."""
        return [stream for stream in list(self.streams.values()) if self._is_active(stream)]

    def _is_active(self, stream: Stream) -> bool:
        if not stream.is_set_aside:
            return True
        if time.monotonic() < stream.try_again_at:
            return False
        try:
            self._start(stream)
        except ResponseError as error:
            self._deal_with(stream, error)
            return False
        stream.is_set_aside = False
        log.info("camera %s: %s is a stream again", stream.camera_id, stream.name)
        return True

    def _deal_with(self, stream: Stream, error: ResponseError) -> None:
        """Go on after an error of one stream; raises any other."""
        if not is_of_one_stream(error):
            raise error
        if str(error).startswith("WRONGTYPE"):
            self._set_aside(stream)
        elif str(error).startswith("NOGROUP"):
            self._group_is_gone(stream)

    def _set_aside(self, stream: Stream) -> None:
        stream.try_again_at = time.monotonic() + SET_ASIDE_SECONDS
        if stream.is_set_aside:
            return
        stream.is_set_aside = True
        if stream.position == "$":  # when it becomes a stream, all in it is new
            stream.position = "0"
        log.warning(
            "camera %s: set aside: %s in Redis at %s is not a stream: delete or rename it",
            stream.camera_id,
            stream.name,
            self._server,
        )

    def _read_new(self, block_seconds: float) -> list[Entry]:
        streams = self._active()
        if not streams:
            return []
        if not self._cluster:
            positions = {stream.name: self._next_of(stream) for stream in streams}
            try:
                reply = self._call(positions, max(1, round(block_seconds * 1000)), READ_COUNT)
                return entries_of(reply)
            except ResponseError as error:
                if not is_of_one_stream(error):
                    raise
        # In a cluster different cameras hash to different slots: one stream at a time, in turn.
        for stream in streams:
            self.streams[stream.name] = self.streams.pop(stream.name)
            entries = self._read_one(stream, self._next_of(stream), READ_COUNT)
            if entries:
                return entries
        return []

    def _read_one(self, stream: Stream, position: str, count: int) -> list[Entry]:
        """Entries of one stream, without waiting; deals with its errors."""
        try:
            return entries_of(self._call({stream.name: position}, None, count))
        except ResponseError as error:
            self._deal_with(stream, error)
            return []
