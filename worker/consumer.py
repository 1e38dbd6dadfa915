"""Typed events from Redis Streams, for downstream services and ``ssd-worker subscribe``.

Delivery: with a group, at least once: an event is redelivered until it is acknowledged, even if the
consumer holding it dies (its entries are claimed after ``claim_after_seconds``). Two events with
the same ``id`` are the same event. Without a group, every reader gets every event from its starting
point on. The events of one camera arrive in order, except those claimed from other consumers;
outages of Redis are waited out.
"""

import logging
import os
import re
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import TypeVar

from redis.exceptions import ResponseError

from worker.consuming.discovery import announced_cameras
from worker.consuming.entries import Entry, EventReader
from worker.consuming.filtering import EventFilter
from worker.consuming.group import GroupReader
from worker.consuming.lag import Backlog, backlog_of_group, lag_after
from worker.consuming.plain import PlainReader
from worker.consuming.reading import Stream, StreamReader
from worker.coverage import Interval, coverage_of
from worker.errors import SinkError, SinkUnavailable, UsageError
from worker.events import Event
from worker.keys import Keys
from worker.servers.address import REDIS_ERRORS, connect, disconnect, explain, server_of_client

log = logging.getLogger(__name__)

BLOCK_SECONDS = 1.0
POLL_SECONDS = 0.05
DISCOVER_SECONDS = 1.0
FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 2.0
CLAIM_AFTER_SECONDS = 60.0
REMOVE_IDLE_AFTER_SECONDS = 3600.0
START = re.compile(r"start|new|[0-9]+(-[0-9]+)?")
UNKNOWN = Backlog(lag=None, pending=None)

T = TypeVar("T")


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
        labels: Collection[str] | None = None,
        score_threshold: float | None = None,
        states: Collection[str] | None = None,
        claim_after_seconds: float = CLAIM_AFTER_SECONDS,
        remove_idle_after_seconds: float = REMOVE_IDLE_AFTER_SECONDS,
        timeout_seconds: float | None = None,
    ) -> None:
        """Connect.

        ``cameras``: ids; None for all, including cameras that appear later. ``start``: ``start``
        (everything in the streams), ``new`` or an entry id; an existing group resumes from its
        position instead. ``replay``: read the streams of replays.

        With ``labels``, ``score_threshold`` or ``states`` only what they name is delivered:
        detections events in which a detection has one of the labels and scores above the
        threshold, camera events with one of the states. In a group the others are acknowledged.

        ``claim_after_seconds``: take over what other consumers leave unacknowledged for so long.
        ``remove_idle_after_seconds``: remove other consumers from the group that have nothing
        pending and have not been seen for so long. ``timeout_seconds``: end the iteration after
        this long without an event; None: wait for ever.

        Raises UsageError, SinkUnavailable or SinkError.
        """
        self._cameras = _checked(cameras, prefix, group, consumer)
        if not START.fullmatch(start):
            raise UsageError(f"start: {start!r}: expected start, new or an entry id")
        self._filter = EventFilter.of(labels, score_threshold, states)
        self._client = connect(url, retries=0)  # a lost reply must be seen here
        self._server = server_of_client(self._client)
        self._keys = Keys(prefix)
        self._group = group
        self._start = {"start": "0", "new": "$"}.get(start, start)
        self._replay = replay
        self._timeout_seconds = timeout_seconds
        self._stop_asked = False
        self._events = EventReader()
        self._places: dict[tuple[str, str], tuple[str, str]] = {}
        """Where unacknowledged events are, by camera and id: for those that come back as JSON."""
        self._warnings: set[str] = set()
        self._has_discovered = False
        self._next_discovery = 0.0
        self._reader: StreamReader
        if group is None:
            self._reader = PlainReader(self._client, self._server)
        else:
            self._reader = GroupReader(
                self._client,
                self._server,
                group,
                consumer or f"{socket.gethostname()}-{os.getpid()}",
                claim_after_seconds,
                remove_idle_after_seconds,
            )
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
        self.ack_many([event])

    def ack_many(self, events: Iterable[Event]) -> None:
        """Acknowledge events as ``ack`` does, with one command per camera.

        An event may also come from another consumer of the group, or be one that was delivered
        here and parsed again from its JSON.
        """
        reader = self._group_reader("ack")
        by_stream: dict[str, list[Event]] = {}
        for event in events:
            place = event.place or self._places.get(_key(event))
            if place is not None:
                by_stream.setdefault(place[0], []).append(event)
        for stream, found in by_stream.items():
            entry_ids = [(e.place or self._places[_key(e)])[1] for e in found]
            if self._retry(partial(reader.acknowledge, stream, entry_ids)) is None:
                return
            for event in found:
                self._places.pop(_key(event), None)

    def lag(self) -> dict[str, int | None]:
        """Entries not yet read, by camera: by the group, or by this reader without one.

        None for a camera of which Redis cannot say it: more than 1,000 are left of a stream that
        was trimmed, or its key is not a stream. Raises SinkUnavailable or SinkError.
        """
        if self._group is not None:
            return {camera: backlog.lag for camera, backlog in self._backlogs().items()}
        return self._of_each_stream(lambda s: lag_after(self._client, s.name, s.position))

    def pending(self) -> dict[str, int | None]:
        """Entries that the group's consumers have read and not acknowledged, by camera.

        None for a camera whose key is not a stream. Raises UsageError without a group,
        SinkUnavailable or SinkError.
        """
        self._group_reader("pending")
        return {camera: backlog.pending for camera, backlog in self._backlogs().items()}

    def coverage(self, start: datetime, end: datetime) -> dict[str, list[Interval]]:
        """When the cameras were watched from ``start`` to ``end``, and when not and why.

        Per camera, in order and without gaps; docs/coverage.md says what the states mean. Reads
        that part of the streams, whatever was iterated over, and changes nothing. Raises UsageError
        for a camera that Redis does not know and for replays, SinkUnavailable or SinkError.
        """
        if self._replay:
            raise UsageError("coverage is that of live cameras: EventConsumer(..., replay=False)")
        return coverage_of(self._client, self._keys, self._cameras, start, end)

    def __iter__(self) -> Iterator[Event]:
        """Events as they arrive; ends at ``stop``, or after ``timeout_seconds`` of silence."""
        last_event = time.monotonic()
        self._reader.restart()
        while not self._stopped():
            entries = self._retry(self._read) or ()
            received = [(entry, self._event(entry)) for entry in entries]
            skipped = [entry for entry, event in received if event is None]
            self._retry(partial(self._reader.settle, skipped))
            for entry, event in received:
                self._reader.passed(entry, to_user=event is not None)
                if event is not None:
                    if self._group is not None:
                        self._places[_key(event)] = entry.place
                    yield event
                    last_event = time.monotonic()
                if self._stopped():
                    return
            silence = time.monotonic() - last_event
            if self._timeout_seconds is not None and silence >= self._timeout_seconds:
                return

    def _read(self) -> list[Entry]:
        if self._must_discover():
            self._discover()
        block_seconds = min(BLOCK_SECONDS, self._timeout_seconds or BLOCK_SECONDS)
        entries = self._reader.read(block_seconds)
        if not entries and self._reader.must_poll:
            self._sleep(POLL_SECONDS)
        return entries

    def _event(self, entry: Entry) -> Event | None:
        """The event of an entry, if it holds one that is wanted."""
        event = self._events.event(entry)
        return event if event is not None and self._filter.wants(event) else None

    def _must_discover(self) -> bool:
        if self._cameras is None and time.monotonic() >= self._next_discovery:
            return True
        return self._reader.lacks_streams

    def _discover(self) -> None:
        """Find new cameras and the starting points in their streams."""
        cameras = self._announced() if self._cameras is None else self._cameras
        # A camera that appeared after this consumer has nothing old.
        start = "0" if self._has_discovered else self._start
        for camera_id in cameras:
            stream = self._keys.camera(camera_id, replay=self._replay).stream
            if stream not in self._reader.streams:
                self._reader.add(camera_id, stream, start)
        self._reader.lacks_streams = False
        self._has_discovered = True
        self._next_discovery = time.monotonic() + DISCOVER_SECONDS

    def _announced(self) -> list[str]:
        """The ids of all cameras, or of all replays."""
        key = self._keys.ids(replay=self._replay)
        try:
            cameras, others = announced_cameras(self._client, key)
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            problem = f"{key} in Redis at {self._server} is not a set of camera ids"
            if not self._has_discovered:
                raise SinkError(f"{problem}: delete or rename it") from error
            self._warn_once(f"{problem}, so that new cameras are not found: delete or rename it")
            return []
        for member in others:
            self._warn_once(
                f"the camera id {member!r} in {key} of Redis at {self._server} is not UTF-8, so "
                "that it is not read: remove it with SREM"
            )
        return cameras

    def _warn_once(self, message: str) -> None:
        if message not in self._warnings:
            self._warnings.add(message)
            log.warning("%s", message)

    def _group_reader(self, name: str) -> GroupReader:
        if not isinstance(self._reader, GroupReader):
            raise UsageError(f"{name} needs a consumer group: EventConsumer(..., group=NAME)")
        return self._reader

    def _backlogs(self) -> dict[str, Backlog]:
        group = self._group or ""
        return self._of_each_stream(
            lambda stream: backlog_of_group(self._client, stream.name, group) or UNKNOWN
        )

    def _of_each_stream(self, call: Callable[[Stream], T]) -> dict[str, T]:
        try:
            return {s.camera_id: call(s) for s in list(self._reader.streams.values())}
        except REDIS_ERRORS as error:
            raise explain(error, self._server) from error

    def _retry(self, call: Callable[[], T]) -> T | None:
        """The result of a call, retried while Redis is unavailable; None if stopped meanwhile."""
        delay = FIRST_RETRY_SECONDS
        failed = False
        while True:
            try:
                result = call()
            except REDIS_ERRORS as error:
                explained = explain(error, self._server)
                if not isinstance(explained, SinkUnavailable):
                    raise explained from error
                self._reader.lost_reply()
                # The address may lead to another server by now: connect again.
                disconnect(self._client)
                if not failed:
                    log.warning("%s; retrying", explained)
                    failed = True
                self._sleep(delay)
                if self._stopped():
                    return None
                delay = min(delay * 2, LAST_RETRY_SECONDS)
            else:
                if failed:
                    self._reader.recovered()
                return result

    def _sleep(self, seconds: float) -> None:
        """Wait in short steps: ``stop`` sets a plain flag, since signal handlers must not lock."""
        deadline = time.monotonic() + seconds
        while not self._stopped() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _stopped(self) -> bool:
        return self._stop_asked


def _key(event: Event) -> tuple[str, str]:
    return event.data.camera_id, event.id


def _checked(cameras: Sequence[str] | None, *names: str | None) -> list[str] | None:
    """The ids as a list. Raises UsageError for names that Redis cannot be asked for."""
    if isinstance(cameras, str):
        raise UsageError(f"cameras: {cameras!r}: expected a list of camera ids, or None for all")
    for name in (*(cameras or ()), *names):
        try:
            (name or "").encode()
        except UnicodeEncodeError:
            raise UsageError(f"{name!r} is not a name that can be written in UTF-8") from None
    return None if cameras is None else list(cameras)
