"""Reading in a consumer group: every entry is delivered until it is acknowledged.

Own pending entries come first, then those that other consumers have left, then new ones. New
entries are in order, and so are own pending ones; a claimed entry is older than what was delivered
before it. After a lost reply, what it had is found among the own pending entries; since a read of
the broken connection may still be waiting in the server, and be given an entry before those of the
next read, new entries are taken from there, too, until such a read has ended.
"""

import logging
import time
from collections.abc import Collection, Sequence
from importlib.resources import files
from typing import Any

from redis.exceptions import ResponseError

from worker.consuming.entries import Entry, id_before, parse_id
from worker.consuming.reading import (
    READ_COUNT,
    Stream,
    StreamReader,
    is_of_one_stream,
    says_missing,
)
from worker.servers.address import RedisClient

log = logging.getLogger(__name__)

HISTORY_COUNT = 100
"""Own pending entries per read: they count as idle already, however few are read."""
DOUBT_SECONDS = 5.0
"""How long a read of a broken connection may go on in the server: it waits there for up to a
second."""

Place = tuple[str, str]
"""Stream and entry id."""


class GroupReader(StreamReader):
    """The entries of streams for one consumer of a group."""

    def __init__(
        self,
        client: RedisClient,
        server: str,
        group: str,
        consumer: str,
        claim_after_seconds: float,
        remove_idle_after_seconds: float,
    ) -> None:
        super().__init__(client, server)
        self._group = group
        self._consumer = consumer
        self._claim_after_seconds = claim_after_seconds
        self._remove_idle_after_seconds = remove_idle_after_seconds
        script = (files("worker.consuming") / "remove_idle.lua").read_text(encoding="utf-8")
        self._remove_idle = client.register_script(script)
        self._unacknowledged: set[Place] = set()
        """Entries that the user has got."""
        self._with_user: set[Place] = set()
        """Those of them that the user has got since ``restart``."""
        self._next_claim = self._next_removal = self._doubt_until = 0.0

    def read(self, block_seconds: float) -> list[Entry]:
        """Own pending entries, else claimed ones, else new ones."""
        in_doubt = time.monotonic() < self._doubt_until
        for stream in self.streams.values() if in_doubt else ():
            stream.history = stream.history or "0"
        found = self._own_pending() or self._claimed()
        if found:
            return found
        self._remove_idle_consumers()
        entries = self._read_new(block_seconds)
        self._note(entries)
        if in_doubt:
            for entry in entries:  # to be found among the own pending ones, in order
                self.streams[entry.stream].history = "0"
            return []
        # In a group that was created again, entries that the user has are new to the server.
        return [entry for entry in entries if entry.place not in self._with_user]

    def passed(self, entry: Entry, *, to_user: bool) -> None:
        """Note what the user has got."""
        if to_user:
            self._with_user.add(entry.place)
            self._unacknowledged.add(entry.place)

    def settle(self, skipped: Sequence[Entry]) -> None:
        """Acknowledge entries that the user does not get."""
        by_stream: dict[str, list[str]] = {}
        for entry in skipped:
            by_stream.setdefault(entry.stream, []).append(entry.place[1])
        for stream, entry_ids in by_stream.items():
            self.acknowledge(stream, entry_ids)

    def acknowledge(self, stream: str, entry_ids: Collection[str]) -> int:
        """Acknowledge entries of a stream; returns how many were pending."""
        acknowledged = 0
        try:
            acknowledged = self._client.xack(stream, self._group, *entry_ids)
        except ResponseError as error:
            if stream in self.streams:
                self._deal_with(self.streams[stream], error)
            elif not is_of_one_stream(error):
                raise
        places = {(stream, entry_id) for entry_id in entry_ids}
        self._with_user -= places
        self._unacknowledged -= places
        return acknowledged

    def restart(self) -> None:
        """Deliver all own pending entries again, of an earlier process or iteration."""
        self._with_user.clear()
        for stream in self.streams.values():
            stream.history = "0"

    def lost_reply(self) -> None:
        """Read own pending entries again from now on: a reply that was lost may have had some.

        Without this they would be redelivered after ``claim_after_seconds`` only.
        """
        self._doubt_until = float("inf")

    def recovered(self) -> None:
        """Go on looking for entries that are given to reads of the broken connection."""
        self._doubt_until = time.monotonic() + DOUBT_SECONDS

    def _start(self, stream: Stream) -> None:
        """Create the group, or join it, and note where it stands."""
        stream.history = "0"
        start = stream.position
        if start == "$":  # its id, to begin there again should the group be deleted
            last = self._client.xrevrange(stream.name, count=1)
            start = last[0][0].decode() if last else "0"
        stream.position = start
        if not self._create_group(stream, start, mkstream=True):
            for group in self._client.xinfo_groups(stream.name):
                if group["name"] == self._group.encode():
                    stream.position = group["last-delivered-id"].decode()

    def _create_group(self, stream: Stream, start: str, *, mkstream: bool) -> bool:
        """Whether the group was created; it exists in any case."""
        try:
            self._client.xgroup_create(stream.name, self._group, start, mkstream=mkstream)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
            return False
        return True

    def _call(self, positions: dict[str, Any], block_ms: int | None, count: int) -> Any:
        return self._client.xreadgroup(
            self._group, self._consumer, positions, count=count, block=block_ms
        )

    def _next_of(self, stream: Stream) -> str:
        return ">"

    def _note(self, entries: Sequence[Entry]) -> None:
        """Remember how far the streams have been read."""
        for entry in entries:
            stream = self.streams[entry.stream]
            if parse_id(entry.entry_id) > parse_id(stream.position):
                stream.position = entry.entry_id.decode()

    def _own_pending(self) -> list[Entry]:
        """Entries delivered to this consumer name, not acknowledged, and not with the user."""
        for stream in self._active():
            while stream.history is not None:
                entries = self._read_one(stream, stream.history, HISTORY_COUNT)
                stream.history = entries[-1].entry_id.decode() if entries else None
                self._note(entries)
                new = [entry for entry in entries if entry.place not in self._with_user]
                if new:
                    return new
        return []

    def _claimed(self) -> list[Entry]:
        """Entries of any consumer left unacknowledged for ``claim_after_seconds``.

        A round goes through all pending entries once. The next one is due some time after its end,
        so that new entries have their turn.
        """
        streams = self._active()
        in_round = any(stream.claim_cursor is not None for stream in streams)
        if not in_round and time.monotonic() < self._next_claim:
            return []
        for stream in streams if not in_round else ():
            stream.claim_cursor = b"0-0"
        for stream in streams:
            while stream.claim_cursor is not None:
                claimed = self._claim(stream, stream.claim_cursor)
                if claimed:
                    return claimed
        self._next_claim = time.monotonic() + self._claim_after_seconds / 4
        return []

    def _claim(self, stream: Stream, cursor: bytes) -> list[Entry]:
        """Claim a few entries from a cursor on, and move the cursor."""
        stream.claim_cursor = None
        try:
            cursor, found, *_ = self._client.xautoclaim(
                stream.name,
                self._group,
                self._consumer,
                round(self._claim_after_seconds * 1000),
                cursor,
                READ_COUNT,
            )
        except ResponseError as error:
            self._deal_with(stream, error)
            return []
        stream.claim_cursor = None if cursor == b"0-0" else cursor
        # Redis 6.2 returns nil for entries that have been trimmed.
        return [Entry(stream.name, entry_id, fields) for entry_id, fields in found if entry_id]

    def _remove_idle_consumers(self) -> None:
        """Remove consumers without pending entries that have not been seen for long."""
        if time.monotonic() < self._next_removal:
            return
        milliseconds = round(self._remove_idle_after_seconds * 1000)
        for stream in self._active():
            arguments = [self._group, self._consumer, milliseconds]
            try:
                self._remove_idle(keys=[stream.name], args=arguments)
            except ResponseError as error:
                if not says_missing(error):  # the next read deals with that
                    self._deal_with(stream, error)
        self._next_removal = time.monotonic() + self._remove_idle_after_seconds / 4

    def _group_is_gone(self, stream: Stream) -> None:
        """Create the group again where it was, as far as that is known."""
        start = self._where_to_resume(stream)
        try:
            created = self._create_group(stream, start, mkstream=False)
        except ResponseError as error:
            if not says_missing(error):
                self._deal_with(stream, error)
                return
            log.warning(
                "camera %s: %s was deleted: entries that were not read are lost",
                stream.camera_id,
                stream.name,
            )
            del self.streams[stream.name]
            self._forget_entries(stream)
            self.lacks_streams = True
            return
        if created:
            log.warning(
                "camera %s: the group %s of %s was deleted: created it again, to go on %s: what "
                "others had read may be repeated, or lost if it was not acknowledged",
                stream.camera_id,
                self._group,
                stream.name,
                "from the first entry" if start == "0" else f"after entry {start}",
            )

    def _where_to_resume(self, stream: Stream) -> str:
        """The position of a group created again: before all that may not have been handled.

        If the last entry that was read is in the stream, it is the same stream; else it is another
        one, or all that was read has been trimmed, and everything in it is new.
        """
        position = stream.position
        if not self._client.xrevrange(stream.name, position, position, count=1):
            self._forget_entries(stream)
            return "0"
        held = [entry_id for name, entry_id in self._unacknowledged if name == stream.name]
        oldest = min(held, key=parse_id, default=None)
        return position if oldest is None else min(id_before(oldest), position, key=parse_id)

    def _forget_entries(self, stream: Stream) -> None:
        """Forget entries that are no longer in a stream."""
        gone = {place for place in self._unacknowledged if place[0] == stream.name}
        self._with_user -= gone
        self._unacknowledged -= gone
