"""The newest state of all cameras, and the viewers who are sent what changes in it.

Takes messages of the feed; gives viewers server-sent events. Lives in the event loop alone. A
viewer has a mailbox in which what is newer replaces what was not sent yet, so that a slow one costs
no more than a fast one: it misses what came between, and gets the whole state once it reads again.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from worker.dashboard.cameras import MAX_CHANGES
from worker.dashboard.clock import RedisClock
from worker.dashboard.messages import Message, frame
from worker.dashboard.times import iso

SLOW_SECONDS = 2.0
"""A viewer who has taken nothing for so long gets the state instead of what waits."""
QUIET_SECONDS = 5.0
"""After so long without news a viewer is sent the time, as a sign that the connection lives."""
MAX_WAITING_CHANGES = 100
MAX_VIEWERS = 100
MAX_VIEWERS_OF_ADDRESS = 25
"""So that one cannot take the places of all. Behind a proxy that names no addresses, all are one
address."""
TO_VIEWERS = ("camera", "detections", "change", "removed", "redis", "replays")


@dataclass(frozen=True)
class Wanted:
    """What a viewer asked for; None: everything."""

    cameras: frozenset[str] | None = None
    labels: frozenset[str] | None = None
    min_score: float | None = None

    def wants(self, camera_id: str | None) -> bool:
        """Whether what is about this camera, or about all, is sent."""
        return camera_id is None or self.cameras is None or camera_id in self.cameras

    def frame_of(self, message: Message) -> bytes:
        """The server-sent event; b"" if nothing in it is wanted."""
        if message.name != "detections" or (self.labels is None and self.min_score is None):
            return message.frame
        found = [
            detection
            for detection in message.data["detections"]
            if (self.labels is None or detection["label"] in self.labels)
            and (self.min_score is None or detection["score"] >= self.min_score)
        ]
        return frame(message.name, {**message.data, "detections": found}) if found else b""


class TooManyViewers(Exception):
    """No more viewers are let in; the message is for people."""


class Viewer:
    """One who watches: a mailbox of bounded size."""

    def __init__(self, wanted: Wanted, address: str) -> None:
        self.wanted = wanted
        self.address = address
        self._waiting: dict[tuple[str, str | None], bytes] = {}
        self._changes: deque[bytes] = deque()
        self.is_over = False
        self._needs_state = True
        self._taken_at = time.monotonic()
        self._news = asyncio.Event()
        self._news.set()

    def put(self, messages: Iterable[Message]) -> None:
        """Keep what is wanted of these until it is taken."""
        if self._needs_state:  # which will be newer than these
            return
        slow = time.monotonic() - self._taken_at > SLOW_SECONDS and self._news.is_set()
        if slow or len(self._changes) > MAX_WAITING_CHANGES:
            self._forget()
            return
        for message in messages:
            if message.name in TO_VIEWERS and self.wanted.wants(message.camera_id):
                sent = self.wanted.frame_of(message)
                if sent and message.name == "change":
                    self._changes.append(sent)
                elif sent:
                    self._waiting[message.name, message.camera_id] = sent
        if self._waiting or self._changes:
            self._news.set()

    async def take(self, hub: "Hub") -> bytes:
        """Wait for news; all of it as server-sent events."""
        self._taken_at = time.monotonic()
        await self._news.wait()
        self._news.clear()
        self._taken_at = time.monotonic()
        if self.is_over:
            return b""
        if self._needs_state:
            self._needs_state = False
            return frame("state", hub.state(self.wanted.cameras))
        sent = b"".join([*self._changes, *self._waiting.values()])
        self._waiting.clear()
        self._changes.clear()
        return sent

    def end(self) -> None:
        """No more news: the server ends."""
        self.is_over = True
        self._news.set()

    def _forget(self) -> None:
        self._waiting.clear()
        self._changes.clear()
        self._needs_state = True
        self._news.set()


class Hub:
    """The newest state."""

    def __init__(self, clock: RedisClock) -> None:
        self._clock = clock
        self._cameras: dict[str, dict[str, Any]] = {}
        self._changes: dict[str, deque[dict[str, Any]]] = {}
        self._redis: dict[str, Any] = {"up": False, "since": None, "problem": None}
        self._replays: list[dict[str, str]] = []
        self._unreadable_ids = 0
        self._viewers: set[Viewer] = set()

    def receive(self, messages: list[Message]) -> None:
        """Take what the feed has read."""
        for message in messages:
            self._note(message)
        for viewer in self._viewers:
            viewer.put(messages)

    def state(self, cameras: Collection[str] | None = None) -> dict[str, Any]:
        """All of it, as the API shows it; with ``cameras`` only those."""
        shown = (
            camera
            for camera_id, camera in sorted(self._cameras.items())
            if cameras is None or camera_id in cameras
        )
        return {
            "time": iso(self._clock.now()),
            "redis": self._redis,
            "malformed": sum(camera["malformed"] for camera in self._cameras.values()),
            "unreadable_ids": self._unreadable_ids,
            "cameras": list(shown),
            "replays": self._replays,
        }

    def camera(self, camera_id: str) -> dict[str, Any] | None:
        """One camera; None if Redis knows none of this id."""
        return self._cameras.get(camera_id)

    def changes(self, camera_id: str) -> list[dict[str, Any]]:
        """The state changes of a camera that the feed has seen, newest first."""
        return list(reversed(self._changes.get(camera_id, ())))

    @property
    def camera_ids(self) -> list[str]:
        """All, sorted."""
        return sorted(self._cameras)

    def admit(self, wanted: Wanted, address: str) -> Viewer:
        """Another viewer. Raises TooManyViewers."""
        if len(self._viewers) >= MAX_VIEWERS:
            raise TooManyViewers(
                f"{MAX_VIEWERS} pages are connected, which is all that this server serves at a "
                "time: close some"
            )
        if sum(each.address == address for each in self._viewers) >= MAX_VIEWERS_OF_ADDRESS:
            raise TooManyViewers(
                f"{MAX_VIEWERS_OF_ADDRESS} pages are connected from this address, which is all "
                "that one may have: close some"
            )
        viewer = Viewer(wanted, address)
        self._viewers.add(viewer)
        return viewer

    async def events(self, viewer: Viewer) -> AsyncIterator[bytes]:
        """What a viewer is sent, until the server ends."""
        try:
            while True:
                try:
                    async with asyncio.timeout(QUIET_SECONDS):
                        sent = await viewer.take(self)
                except TimeoutError:
                    sent = frame("time", {"time": iso(self._clock.now())})
                if viewer.is_over:
                    return
                yield sent
        finally:
            self._viewers.discard(viewer)

    def leave(self, viewer: Viewer) -> None:
        """A viewer is gone."""
        self._viewers.discard(viewer)

    def close(self) -> None:
        """Let all viewers go."""
        for viewer in self._viewers:
            viewer.end()

    def _note(self, message: Message) -> None:
        camera_id = message.camera_id
        if camera_id is None:
            if message.name == "redis":
                self._redis = message.data
            elif message.name == "replays":
                self._replays = message.data
            elif message.name == "unreadable_ids":
                self._unreadable_ids = message.data
        elif message.name == "camera":
            self._cameras[camera_id] = message.data
        elif message.name in ("change", "past"):
            new = message.data if message.name == "past" else [message.data]
            self._changes.setdefault(camera_id, deque(maxlen=MAX_CHANGES)).extend(new)
        elif message.name == "removed":
            self._cameras.pop(camera_id, None)
            self._changes.pop(camera_id, None)
