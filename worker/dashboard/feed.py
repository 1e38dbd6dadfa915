"""Reads the streams of all cameras in one thread: entries of Redis in, messages for viewers out.

Polls five times a second rather than waiting in Redis: a wait for 50 cameras would end with each of
their events, and send 50 names for it. Of the detections between two polls viewers get the newest.
What is no event is counted and left out. While Redis is away, no camera is shown as up; reading
resumes where it stopped. Memory: one record per camera, each bounded.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from worker.consuming.discovery import announced_cameras
from worker.consuming.entries import Entry, entries_of, id_before, parse_id
from worker.consuming.plain import PlainReader
from worker.consuming.reading import READ_COUNT, Stream
from worker.dashboard.cameras import CameraRecord, is_plausible
from worker.dashboard.clock import RedisClock
from worker.dashboard.commands import replies_of, time_of
from worker.dashboard.messages import Message
from worker.dashboard.states import StateNote
from worker.dashboard.times import iso
from worker.errors import SinkUnavailable, WorkerError
from worker.events import EVENT_TYPES, DetectionsEvent, Event, parse_event
from worker.keys import Keys
from worker.servers.address import (
    REDIS_ERRORS,
    RedisClient,
    connect,
    disconnect,
    explain,
    server_of_url,
)
from worker.snapshots import read_snapshot
from worker.text import printable

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
READ_SECONDS = 1.0
"""After reading for so long without an end, numbers are due again."""
TICK_SECONDS = 1.0
"""How often numbers are sent, and new cameras and pictures are looked for."""
BACKFILL_ENTRIES = 100
"""Of each camera, at the start: for its rates, labels and recent changes."""
SEARCH_ENTRIES = 1000
MAX_SEARCHED_ENTRIES = 20_000
"""Of all cameras together, for the time since when those that are down have been: a second."""
REPLY_TIMEOUT_SECONDS = 2.0
FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 2.0
"""A camera that goes down is shown within 3 s, also if Redis was away until then."""
PICTURE_HEAD_BYTES = 1024
"""Of a JPEG, where it says when it was taken."""
DOES_NOT_ANSWER = "Redis does not answer: start it, or see the log of `ssd-worker dashboard`"
REFUSES = "Redis refuses to be read: see the log of `ssd-worker dashboard`"
INTERNAL_ERROR = (
    "the dashboard cannot show what Redis holds: see its log, and report the traceback there"
)
CONNECTING = "Redis has not answered yet"

GAP_SECONDS = 30.0
"""Without reading for so long, entries may have been trimmed unread."""

Deliver = Callable[[list[Message]], None]


class Listener(Protocol):
    """Who else wants the events, in the feed's thread."""

    def add(self, camera_id: str, event: Event) -> None:
        """The next event of a camera."""
        ...

    def forget(self, camera_id: str | None = None) -> None:
        """A camera is gone; or, without one, events of any may have been missed."""
        ...


class Feed:
    """The thread that reads, and what it knows."""

    def __init__(
        self, url: str, keys: Keys, clock: RedisClock, deliver: Deliver, listener: Listener
    ) -> None:
        """``deliver`` takes messages, in this thread."""
        self._listener = listener
        self._last_read = time.monotonic()
        self._url = url
        self._keys = keys
        self._clock = clock
        self._deliver = deliver
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dashboard-feed", daemon=True)
        self._client: RedisClient | None = None
        self._reader: PlainReader | None = None
        self._cameras: dict[str, CameraRecord] = {}
        self._by_stream: dict[str, CameraRecord] = {}
        self._shown: dict[str, dict[str, Any]] = {}
        self._outbox: list[Message] = []
        self._redis: dict[str, Any] = {"up": False, "since": None, "problem": CONNECTING}
        self._replays: list[str] | None = None
        self._unreadable_ids = 0
        self._next_tick = 0.0
        self._search_left = MAX_SEARCHED_ENTRIES

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """End soon."""
        self._over.set()

    def _run(self) -> None:
        delay = FIRST_RETRY_SECONDS
        while not self._over.is_set():
            try:
                self.poll()
            except Exception as error:  # a bug, too, must not leave an old state on the page
                self._failed(error)
                self._over.wait(delay)
                delay = min(delay * 2, LAST_RETRY_SECONDS)
            else:
                delay = FIRST_RETRY_SECONDS
                self._over.wait(POLL_SECONDS)

    def poll(self) -> None:
        """Read and send what is new. Raises WorkerError, after which it can be called again."""
        try:
            self._poll()
        except REDIS_ERRORS as error:
            raise explain(error, server_of_url(self._url)) from error

    def _poll(self) -> None:
        if self._client is None:
            self._connect()
        if time.monotonic() >= self._next_tick:
            self._tick()
            self._next_tick = time.monotonic() + TICK_SECONDS
        if time.monotonic() - self._last_read > GAP_SECONDS:
            self._listener.forget()
        newest = self._read_entries()
        self._last_read = time.monotonic()
        if not self._redis["up"]:
            self._recovered()
        for camera in newest:
            self._send("detections", camera.camera_id, camera.newest)
        self._flush()

    def _connect(self) -> None:
        self._client = connect(self._url, REPLY_TIMEOUT_SECONDS)
        self._reader = PlainReader(self._client, server_of_url(self._url))
        self._next_tick = 0.0

    def _failed(self, error: Exception) -> None:
        """Redis is away: say so once, and show no camera as up until it is back."""
        if self._client is not None:  # its address may lead to another server by now
            disconnect(self._client)
        if self._reader is not None:
            self._reader.lost_reply()
        problem = DOES_NOT_ANSWER if isinstance(error, SinkUnavailable) else REFUSES
        if not isinstance(error, WorkerError):
            problem = INTERNAL_ERROR
        if self._redis["problem"] != problem:
            if problem == INTERNAL_ERROR:
                log.error("internal error, retrying: please report this traceback", exc_info=error)
            else:
                log.warning("%s; retrying", error)
            self._set_redis(up=False, problem=problem)
            self._describe()
            self._flush()

    def _recovered(self) -> None:
        assert self._reader is not None
        self._reader.recovered()
        self._listener.forget()
        log.info("reading the cameras' events from Redis at %s", server_of_url(self._url))
        self._set_redis(up=True, problem=None)
        self._describe()

    def _set_redis(self, *, up: bool, problem: str | None) -> None:
        self._redis = {"up": up, "since": iso(self._clock.now()), "problem": problem}
        self._send("redis", None, self._redis)

    # Entries

    def _read_entries(self) -> list[CameraRecord]:
        """Read all that is new; the cameras that have new detections."""
        assert self._reader is not None
        found: dict[str, CameraRecord] = {}
        deadline = time.monotonic() + READ_SECONDS
        while time.monotonic() < deadline and not self._over.is_set():
            entries = self._reader.read(0.001)
            for entry in entries:
                camera = self._by_stream[entry.stream]
                before = camera.newest_event
                change = self._take(camera, entry)
                self._reader.passed(entry, to_user=True)
                if change is not None:
                    self._send("change", camera.camera_id, change)
                    self._show(camera)
                if camera.newest_event is not before:
                    found[camera.camera_id] = camera
            per_stream = Counter(entry.stream for entry in entries)
            if not entries or (  # of a cluster, one read gives the entries of one stream
                max(per_stream.values()) < READ_COUNT and not self._reader.must_poll
            ):
                break
        return list(found.values())

    def _take(self, camera: CameraRecord, entry: Entry) -> dict[str, Any] | None:
        """Note an entry of a camera's stream; a state change, if it is one."""
        published = parse_id(entry.entry_id)[0] / 1000
        fields = entry.fields or {}
        try:
            event = parse_event(fields.get(b"event", b""), entry.place)
        except ValueError:
            event = None
        if event is not None and is_plausible(event):
            self._listener.add(camera.camera_id, event)
            return camera.add(event, published)
        camera.seen(published)
        if fields.get(b"type", b"").decode(errors="replace") in ("", *EVENT_TYPES):
            self._count_malformed(camera, entry)
        return None

    def _count_malformed(self, camera: CameraRecord, entry: Entry) -> None:
        if not camera.malformed:
            log.warning(
                "camera %s: entry %s of its stream holds no valid event: skipped; more are counted "
                "on the page",
                printable(camera.camera_id),
                entry.entry_id.decode(),
            )
        camera.malformed += 1

    # Once a second

    def _tick(self) -> None:
        assert self._client is not None
        self._clock.set(time_of(self._client))
        found, others = announced_cameras(self._client, self._keys.cameras)
        if len(others) != self._unreadable_ids:
            self._unreadable_ids = len(others)
            self._send("unreadable_ids", None, len(others))
        for camera_id in found:
            if camera_id not in self._cameras:
                self._begin(camera_id)
        for camera_id in set(self._cameras) - set(found):
            self._remove(camera_id)
        replays, _ = announced_cameras(self._client, self._keys.replays)
        if replays != self._replays:
            self._replays = replays
            self._send("replays", None, [{"id": replay_id} for replay_id in replays])
        self._look_at_pictures()
        self._describe()

    def _begin(self, camera_id: str) -> None:
        """Read a camera from now on, and what its status and its last entries say of before."""
        assert self._client is not None
        assert self._reader is not None
        keys = self._keys.camera(camera_id, replay=False)
        camera = CameraRecord(camera_id)
        try:
            self._reader.add(camera_id, keys.stream, "$")
            stream = self._reader.streams[keys.stream]
            if not stream.is_set_aside and stream.position != "0":
                self._look_back(camera, stream)
            self._recall(camera, keys.status)
        except BaseException:
            self._reader.streams.pop(keys.stream, None)  # begin again once Redis answers
            raise
        self._cameras[camera_id] = self._by_stream[keys.stream] = camera
        self._send("past", camera_id, list(camera.changes))

    def _look_back(self, camera: CameraRecord, stream: Stream) -> None:
        """Take the last entries, and find out since when a camera that is down has been."""
        assert self._client is not None
        found = self._client.xrevrange(stream.name, stream.position, "-", count=BACKFILL_ENTRIES)
        for entry in entries_of([(stream.name.encode(), found[::-1])]):
            self._take(camera, entry)
            stream.was_read = True
        while camera.since_is_open and found and self._search_left > 0:
            before = id_before(found[-1][0])
            found = self._client.xrevrange(stream.name, before, "-", count=SEARCH_ENTRIES)
            self._search_left -= SEARCH_ENTRIES
            for entry_id, fields in found:
                if camera.since_is_open:
                    self._search(camera, entry_id, fields)

    def _search(self, camera: CameraRecord, entry_id: bytes, fields: dict[bytes, bytes]) -> None:
        """Look whether the camera was in another state at an entry before those that were taken."""
        try:
            event = parse_event(fields.get(b"event", b""))
        except ValueError:
            return
        if isinstance(event, DetectionsEvent):
            if camera.state != "degraded":
                camera.close_since()
            return
        note = StateNote.of(event, camera.camera_id, parse_id(entry_id)[0] / 1000)
        if note.is_aside:
            return
        if note.state == camera.state:
            camera.began_before(note.time)
        else:
            camera.close_since()

    def _recall(self, camera: CameraRecord, key: str) -> None:
        assert self._client is not None
        try:
            found = self._client.hmget(key, "state", "reason", "epoch")
        except REDIS_ERRORS as error:
            if "WRONGTYPE" not in str(error):
                raise
            return
        if found[0] is not None:
            state, reason, epoch = ((value or b"").decode(errors="replace") for value in found)
            camera.recall(state, reason, epoch)

    def _remove(self, camera_id: str) -> None:
        assert self._reader is not None
        stream = self._keys.camera(camera_id, replay=False).stream
        self._reader.streams.pop(stream, None)
        del self._cameras[camera_id], self._by_stream[stream]
        self._shown.pop(camera_id, None)
        self._listener.forget(camera_id)
        self._send("removed", camera_id, {"id": camera_id})

    def _look_at_pictures(self) -> None:
        """When each camera's picture was taken: the beginning of the JPEG says it."""
        assert self._client is not None
        cameras = list(self._cameras.values())
        pipeline = self._client.pipeline(transaction=False)
        for camera in cameras:
            key = self._keys.camera(camera.camera_id, replay=False).snapshot
            pipeline.getrange(key, 0, PICTURE_HEAD_BYTES - 1)
        heads = replies_of(pipeline) if cameras else []
        for camera, head in zip(cameras, heads, strict=True):
            camera.snapshot = _about_picture(camera.camera_id, head)

    # Messages

    def _describe(self) -> None:
        """Send what has changed of each camera."""
        for camera in self._cameras.values():
            if self._reader is not None:
                stream = self._keys.camera(camera.camera_id, replay=False).stream
                camera.is_a_stream = not self._reader.streams[stream].is_set_aside
            self._show(camera)

    def _show(self, camera: CameraRecord) -> None:
        shown = camera.describe(self._clock.now(), redis_up=self._redis["up"])
        if shown != self._shown.get(camera.camera_id):
            self._shown[camera.camera_id] = shown
            self._send("camera", camera.camera_id, shown)

    def _send(self, name: str, camera_id: str | None, data: Any) -> None:
        self._outbox.append(Message(name, camera_id, data))

    def _flush(self) -> None:
        if self._outbox:
            self._deliver(self._outbox)
            self._outbox = []


def _about_picture(camera_id: str, head: Any) -> dict[str, Any] | None:
    """What the API shows of a picture; None if there is none, or one of something else."""
    if not isinstance(head, bytes) or not head:
        return None
    try:
        info, _ = read_snapshot(head)
    except ValueError:
        return None
    if info.camera_id != camera_id:
        return None
    return {
        "time": iso(info.time.timestamp()),
        "epoch": info.epoch,
        "frame_index": info.frame_index,
        "blurred": info.blurred,
    }
