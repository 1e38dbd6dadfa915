"""Typed events from Redis Streams, for downstream services and ``ssd-worker subscribe``.

Delivery: with a group, at least once: an event is redelivered until it is acknowledged, even if the
consumer holding it dies (its entries are claimed after ``claim_after_seconds``). Two events with
the same ``id`` are the same event. Without a group, every reader gets every event from its starting
point on. The events of one camera arrive in order, except those claimed from other consumers;
outages of Redis are waited out.
"""

import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

from redis.cluster import RedisCluster
from redis.exceptions import ResponseError

from worker.errors import SinkUnavailable, UsageError
from worker.events import Event, parse_event
from worker.keys import Keys
from worker.servers.address import REDIS_ERRORS, connect, explain, server_of_client

log = logging.getLogger(__name__)

READ_COUNT = 10
"""Entries per camera and read. Entries queued behind a slow handler count as idle: unless ten
events of each camera are handled within ``claim_after_seconds``, other consumers get them too."""
BLOCK_SECONDS = 1.0
CLUSTER_POLL_SECONDS = 0.05
DISCOVER_SECONDS = 1.0
FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 2.0

Entry = tuple[str, bytes, dict[bytes, bytes] | None]
"""Stream, entry id, and fields (None if the entry has been trimmed)."""


class EventConsumer:
    """Iterates over events as they arrive.

    with EventConsumer("redis://...", group="alerts", consumer="alerts-1") as consumer:
        for event in consumer:
            consumer.ack(event)
    """

    def __init__(
        self,
        url: str,
        cameras: Sequence[str] | None = None,
        *,
        group: str | None = None,
        consumer: str | None = None,
        start: str = "start",
        replay: bool = False,
        prefix: str = "ssd",
        claim_after_seconds: float = 60.0,
        timeout_seconds: float | None = None,
    ) -> None:
        """Connect.

        ``cameras``: ids; None for all, including cameras that appear later. ``start``: ``start``
        (everything in the streams), ``new`` or an entry id; an existing group resumes from its
        position instead. ``replay``: read the streams of replays. ``timeout_seconds``: end the
        iteration after this long without an event; None: wait for ever.

        Raises UsageError, SinkUnavailable or SinkError.
        """
        self._client = connect(url)
        self._server = server_of_client(self._client)
        self._cluster = isinstance(self._client, RedisCluster)
        self._keys = Keys(prefix)
        self._cameras = None if cameras is None else list(cameras)
        self._group = group
        self._consumer = consumer or f"{socket.gethostname()}-{os.getpid()}"
        self._start = start
        self._replay = replay
        self._claim_after_seconds = claim_after_seconds
        self._timeout_seconds = timeout_seconds
        self._stop_asked = False
        self._positions: dict[str, bytes | str] = {}
        self._history: dict[str, bytes | str] = {}
        """Streams whose entries pending for this consumer are to be read, and from which id on."""
        self._pending: dict[tuple[str, str], tuple[str, bytes]] = {}
        self._yielded: set[tuple[str, bytes]] = set()
        """Pending entries that the current iteration has already yielded."""
        self._next_discovery = self._next_claim = 0.0
        self._retry(self._discover)

    def __enter__(self) -> "EventConsumer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; unacknowledged events will be redelivered."""
        self.stop()
        self._client.close()

    def stop(self) -> None:
        """End the iteration soon; callable from any thread or signal handler."""
        self._stop_asked = True

    def ack(self, event: Event) -> None:
        """Acknowledge an event, so that it is not redelivered. Raises UsageError without a group.

        If ``stop`` is called while Redis is unavailable, the event stays unacknowledged.
        """
        if self._group is None:
            raise UsageError("ack needs a consumer group: EventConsumer(..., group=NAME)")
        delivered = (event.data.camera_id, event.id)
        if delivered in self._pending:
            stream, entry_id = self._pending[delivered]
            if self._retry(lambda: self._client.xack(stream, self._group, entry_id)) is not None:
                self._yielded.discard(self._pending.pop(delivered))

    def __iter__(self) -> Iterator[Event]:
        """Events as they arrive; ends at ``stop``, or after ``timeout_seconds`` of silence."""
        last_event = time.monotonic()
        self._yielded.clear()
        self._reset_history()
        while not self._stopped():
            for entry in self._retry(self._read) or ():
                # Advanced here and not when reading: an entry not yet yielded must be read again.
                if self._group is None:
                    self._positions[entry[0]] = entry[1]
                received = self._event(entry)
                if received is not None:
                    yield received
                    last_event = time.monotonic()
                if self._stopped():
                    return
            silence = time.monotonic() - last_event
            if self._timeout_seconds is not None and silence >= self._timeout_seconds:
                return

    def _read(self) -> list[Entry]:
        """The next entries: own pending, else claimed if a check is due, else new ones."""
        now = time.monotonic()
        if self._cameras is None and now >= self._next_discovery:
            self._discover()
        own = self._read_own_pending()
        if own:
            return own
        if self._group is not None and now >= self._next_claim:
            for stream in self._positions:
                claimed = self._claim(stream)
                if claimed:
                    return claimed  # the next check is still due: there may be more
            self._next_claim = now + self._claim_after_seconds / 4
        if not self._positions:
            self._sleep(CLUSTER_POLL_SECONDS)
            return []
        return self._read_new()

    def _read_new(self) -> list[Entry]:
        block_ms = round(min(BLOCK_SECONDS, self._timeout_seconds or BLOCK_SECONDS) * 1000) or 1
        if not self._cluster:
            return self._entries(self._read_streams(self._positions, block_ms))
        # Different cameras hash to different slots: read one stream at a time, in turn.
        for stream in list(self._positions):
            position = self._positions.pop(stream)
            self._positions[stream] = position
            entries = self._entries(self._read_streams({stream: position}, None))
            if entries:
                return entries
        self._sleep(CLUSTER_POLL_SECONDS)
        return []

    def _read_streams(self, positions: dict[str, Any], block_ms: int | None) -> Any:
        if self._group is None:
            return self._client.xread(positions, count=READ_COUNT, block=block_ms)
        try:
            return self._client.xreadgroup(
                self._group, self._consumer, positions, count=READ_COUNT, block=block_ms
            )
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            for stream in positions:  # the stream or the group was deleted
                self._create_group(stream, "0")
            return []

    def _entries(self, reply: Any) -> list[Entry]:
        """Flatten a reply of XREAD: a list (RESP2) or a dict (RESP3)."""
        streams = reply.items() if isinstance(reply, dict) else reply or ()
        found: list[Entry] = []
        for key, batches in streams:
            stream = key.decode()
            entries = batches[0] if batches and isinstance(batches[0], list) else batches
            found += [(stream, entry_id, fields) for entry_id, fields in entries]
        return found

    def _reset_history(self) -> None:
        """Read own pending entries again: of an earlier process, or of a reply that was lost.

        Without this, those of a lost reply would be redelivered after ``claim_after_seconds`` only.
        """
        if self._group is not None:
            self._history = dict.fromkeys(self._positions, "0")

    def _read_own_pending(self) -> list[Entry]:
        """Entries delivered to this consumer name, not acknowledged and not yet yielded."""
        for stream in list(self._history):
            while entries := self._entries(
                self._read_streams({stream: self._history[stream]}, None)
            ):
                self._history[stream] = entries[-1][1]
                new = [entry for entry in entries if entry[:2] not in self._yielded]
                if new:
                    return new
            del self._history[stream]
        return []

    def _claim(self, stream: str) -> list[Entry]:
        """Entries of any consumer left unacknowledged for ``claim_after_seconds``."""
        idle_ms = round(self._claim_after_seconds * 1000)
        cursor = b"0-0"
        while True:  # one call looks at no more than ten times READ_COUNT pending entries
            try:
                cursor, found, *_ = self._client.xautoclaim(
                    stream, self._group, self._consumer, idle_ms, cursor, READ_COUNT
                )
            except ResponseError as error:
                if str(error).startswith("NOGROUP"):
                    return []  # the next read recreates it
                raise
            # Redis 6.2 returns nil for entries that have been trimmed.
            claimed = [(stream, entry_id, fields) for entry_id, fields in found if entry_id]
            if claimed or cursor == b"0-0":
                return claimed

    def _event(self, entry: Entry) -> Event | None:
        """The event of an entry; None for an entry without one, which is acknowledged."""
        stream, entry_id, fields = entry
        try:
            event = parse_event((fields or {})[b"event"])
        except (KeyError, ValueError):
            problem = "was trimmed" if not fields else "holds no event of a known type"
            log.warning("skipping entry %s of %s: it %s", entry_id.decode(), stream, problem)
            if self._group is not None:
                self._retry(lambda: self._client.xack(stream, self._group, entry_id))
            return None
        if self._group is not None:
            self._pending[event.data.camera_id, event.id] = (stream, entry_id)
            self._yielded.add((stream, entry_id))
        return event

    def _discover(self) -> None:
        """Find new cameras and the starting points in their streams."""
        first = self._next_discovery == 0.0
        cameras = self._cameras
        if cameras is None:
            known = self._client.smembers(self._keys.ids(replay=self._replay))
            cameras = sorted(camera_id.decode() for camera_id in known)
        for camera_id in cameras:
            stream = self._keys.camera(camera_id, replay=self._replay).stream
            if stream in self._positions:
                continue
            # A camera that appeared after this consumer has nothing old.
            start = {"start": "0", "new": "$"}.get(self._start, self._start) if first else "0"
            if self._group is not None:
                self._create_group(stream, start)
                self._positions[stream] = ">"
                self._history[stream] = "0"
            else:
                self._positions[stream] = self._last_id(stream) if start == "$" else start
        self._next_discovery = time.monotonic() + DISCOVER_SECONDS

    def _last_id(self, stream: str) -> bytes | str:
        """The id that ``$`` means now: with ``$`` itself, entries between two reads are missed."""
        last = self._client.xrevrange(stream, count=1)
        return last[0][0] if last else "0"

    def _create_group(self, stream: str, start: str) -> None:
        try:
            self._client.xgroup_create(stream, self._group, start, mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def _retry(self, call: Any) -> Any:
        """The result of a call, retried while Redis is unavailable; None if stopped meanwhile."""
        delay = FIRST_RETRY_SECONDS
        warned = False
        while True:
            try:
                return call()
            except REDIS_ERRORS as error:
                explained = explain(error, self._server)
                if not isinstance(explained, SinkUnavailable):
                    raise explained from error
                self._reset_history()
                if not warned:
                    log.warning("%s; retrying", explained)
                    warned = True
                self._sleep(delay)
                if self._stopped():
                    return None
                delay = min(delay * 2, LAST_RETRY_SECONDS)

    def _sleep(self, seconds: float) -> None:
        """Wait in short steps: ``stop`` sets a plain flag, since signal handlers must not lock."""
        deadline = time.monotonic() + seconds
        while not self._stopped() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _stopped(self) -> bool:
        return self._stop_asked
