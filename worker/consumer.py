"""Typed events from Redis Streams, for downstream services and ``ssd-worker subscribe``.

Delivery: with a group, at least once: an event comes again until it is acknowledged, also when the
consumer that had it died (its entries are claimed after ``claim_after_seconds``). Equal ``id``
means the same event. Without a group, every reader gets every event from where it
starts. Events of one camera come in order; an outage of Redis is waited out.
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
from worker.servers.address import REDIS_ERRORS, connect, explain, server_name

log = logging.getLogger(__name__)

READ_COUNT = 10
"""Entries fetched at once. Those that wait behind a slow handler count as idle: ten events must be
handled within ``claim_after_seconds``, or another consumer of the group gets them too."""
BLOCK_SECONDS = 1.0
CLUSTER_POLL_SECONDS = 0.05
DISCOVER_SECONDS = 1.0
FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 2.0

Entry = tuple[str, bytes, dict[bytes, bytes] | None]
"""Stream, entry id, and fields (None once the entry was trimmed)."""


class EventConsumer:
    """Iterates over events as they come.

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

        ``cameras``: ids; None for all, also those that come later. ``start``: ``start`` (all that
        the streams hold), ``new`` or an entry id; a group that exists goes on where it was.
        ``replay``: read the replays' streams. ``timeout_seconds``: end the iteration after so long
        without an event; None: wait for ever.

        Raises UsageError, SinkUnavailable or SinkError.
        """
        self._client = connect(url)
        self._server = server_name(self._client)
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
        self._pending: dict[tuple[str, str], tuple[str, bytes]] = {}
        self._next_discovery = self._next_claim = 0.0
        self._retry(self._discover)

    def __enter__(self) -> "EventConsumer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; what was not acknowledged comes again."""
        self.stop()
        self._client.close()

    def stop(self) -> None:
        """End the iteration soon; callable from any thread or signal handler."""
        self._stop_asked = True

    def ack(self, event: Event) -> None:
        """Acknowledge an event: it does not come again. Raises UsageError without a group."""
        if self._group is None:
            raise UsageError("ack needs a consumer group: EventConsumer(..., group=NAME)")
        entry = self._pending.pop((event.data.camera_id, event.id), None)
        if entry is not None:
            stream, entry_id = entry
            self._retry(lambda: self._client.xack(stream, self._group, entry_id))

    def __iter__(self) -> Iterator[Event]:
        """Events as they come; ends at ``stop``, or after ``timeout_seconds`` of silence."""
        last_event = time.monotonic()
        for stream in list(self._positions):
            for event in self._own_pending(stream):
                last_event = time.monotonic()
                yield event
        while not self._stopped():
            for entry in self._retry(self._read) or ():
                # Moved here and not when read: an entry that was not handed out is read again.
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
        """The next entries: those of dead consumers when it is time to look, then new ones."""
        now = time.monotonic()
        if self._cameras is None and now >= self._next_discovery:
            self._discover()
        if self._group is not None and now >= self._next_claim:
            self._next_claim = now + self._claim_after_seconds / 4
            claimed = [entry for stream in self._positions for entry in self._claim(stream)]
            if claimed:
                return claimed
        if not self._positions:
            self._sleep(CLUSTER_POLL_SECONDS)
            return []
        return self._read_new()

    def _read_new(self) -> list[Entry]:
        block_ms = round(min(BLOCK_SECONDS, self._timeout_seconds or BLOCK_SECONDS) * 1000) or 1
        if not self._cluster:
            return self._entries(self._read_streams(self._positions, block_ms))
        # The streams of several cameras lie in several slots: ask for one at a time, in turn.
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
            for stream in positions:  # someone deleted the stream or the group
                self._create_group(stream, "0")
            return []

    def _entries(self, reply: Any) -> list[Entry]:
        """The reply of XREAD, a list (RESP2) or dict (RESP3), flat."""
        streams = reply.items() if isinstance(reply, dict) else reply or ()
        found: list[Entry] = []
        for key, batches in streams:
            stream = key.decode()
            entries = batches[0] if batches and isinstance(batches[0], list) else batches
            found += [(stream, entry_id, fields) for entry_id, fields in entries]
        return found

    def _own_pending(self, stream: str) -> Iterator[Event]:
        """What this consumer's name was given earlier and did not acknowledge."""
        if self._group is None:
            return
        last: bytes | str = "0"
        while not self._stopped():
            position = {stream: last}
            entries = self._entries(self._retry(lambda p=position: self._read_streams(p, None)))
            if not entries:
                return
            last = entries[-1][1]
            for entry in entries:
                event = self._event(entry)
                if event is not None:
                    yield event

    def _claim(self, stream: str) -> list[Entry]:
        """Entries that some consumer got but has not acknowledged for ``claim_after_seconds``."""
        idle_ms = round(self._claim_after_seconds * 1000)
        try:
            reply = self._client.xautoclaim(
                stream, self._group, self._consumer, idle_ms, count=READ_COUNT
            )
        except ResponseError as error:
            if str(error).startswith("NOGROUP"):
                return []  # the next read creates it again
            raise
        # Redis 6.2 gives nil for entries that were trimmed.
        return [(stream, entry_id, fields) for entry_id, fields in reply[1] if entry_id]

    def _event(self, entry: Entry) -> Event | None:
        """The event of an entry; None, acknowledged, for one that was trimmed or is not ours."""
        stream, entry_id, fields = entry
        try:
            event = parse_event((fields or {})[b"event"])
        except (KeyError, ValueError):
            what = "was trimmed" if not fields else "holds no event"
            log.warning("entry %s of %s %s: passed over", entry_id.decode(), stream, what)
            if self._group is not None:
                self._retry(lambda: self._client.xack(stream, self._group, entry_id))
            return None
        if self._group is not None:
            self._pending[event.data.camera_id, event.id] = (stream, entry_id)
        return event

    def _discover(self) -> None:
        """Find cameras, and where to begin in their streams."""
        first = self._next_discovery == 0.0
        cameras = self._cameras
        if cameras is None:
            cameras = sorted(c.decode() for c in self._client.smembers(self._keys.cameras))
        for camera_id in cameras:
            stream = self._keys.camera(camera_id, replay=self._replay).stream
            if stream in self._positions:
                continue
            # A camera that came after us has nothing old.
            start = {"start": "0", "new": "$"}.get(self._start, self._start) if first else "0"
            if self._group is not None:
                self._create_group(stream, start)
                self._positions[stream] = ">"
            else:
                self._positions[stream] = self._last_id(stream) if start == "$" else start
        self._next_discovery = time.monotonic() + DISCOVER_SECONDS

    def _last_id(self, stream: str) -> bytes | str:
        """The id that ``$`` means now: reads between which nothing is missed need a fixed one."""
        last = self._client.xrevrange(stream, count=1)
        return last[0][0] if last else "0"

    def _create_group(self, stream: str, start: str) -> None:
        try:
            self._client.xgroup_create(stream, self._group, start, mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def _retry(self, call: Any) -> Any:
        """The result of a call to Redis; waits while Redis is away, None if stopped meanwhile."""
        delay = FIRST_RETRY_SECONDS
        told = False
        while True:
            try:
                return call()
            except REDIS_ERRORS as error:
                explained = explain(error, self._server)
                if not isinstance(explained, SinkUnavailable):
                    raise explained from error
                if not told:
                    log.warning("%s; trying again", explained)
                    told = True
                self._sleep(delay)
                if self._stopped():
                    return None
                delay = min(delay * 2, LAST_RETRY_SECONDS)

    def _sleep(self, seconds: float) -> None:
        """Wait in short steps: ``stop`` is a plain flag, so that a signal handler may set it."""
        deadline = time.monotonic() + seconds
        while not self._stopped() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _stopped(self) -> bool:
        return self._stop_asked
