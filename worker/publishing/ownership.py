"""Owners of cameras: one worker at a time watches a camera and publishes its events.

The sink keeps a camera's owner and when that one was last seen. An owner is seen every
``RENEW_SECONDS``; after ``OWNED_SECONDS`` without, the camera is free, and after an orderly stop at
once. A worker that finds another owner looks again: a camera whose owner is seen meanwhile is held,
and stays on a waiting list; one whose owner is not seen is taken when its time is over. While the
sink is unavailable nobody can know, so cameras are watched, and what becomes of their events is
decided when the sink is back. Used by the publisher's thread; others may read ``may_watch`` and
``held``. Knows no Redis.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from worker.errors import CameraRefused, SinkError, SinkUnavailable, TakenOver
from worker.events import CameraEvent, Event

log = logging.getLogger(__name__)

OWNED_SECONDS = 10.0
"""How long a camera belongs to an owner who is not seen any more: with the looks and the connect, a
successor publishes within 15 s of the owner's death."""
RENEW_SECONDS = 3.0
"""Two renewals in a row may fail or be late before the camera is free."""
LOOK_SECONDS = 0.5
"""Between looks at a camera of which it is not known yet whether its owner lives."""
HELD_LOOK_SECONDS = 2.0
"""Between looks at a camera that is held."""


class Bid(NamedTuple):
    """A request to own a camera, granted if it has no other owner than expected."""

    owner: str
    """Who asks; "" gives the camera back."""
    expected: str
    """The owner until now; "": none. One who owns the camera already needs to expect nothing."""
    expected_seen: str = "*"
    """When that one was last seen, as the last look found it; "*": at any time."""


NOBODY = ""
JUST_LOOK = "?"
"""An owner whom nobody has: the bid changes nothing."""


class Holder(NamedTuple):
    """The answer to a bid."""

    taken: bool
    """Whether the bid was granted."""
    owner: str | None
    """Before the bid: None if none is known, "" if the last one gave the camera back."""
    seen: str
    """When the owner was last seen: an opaque text that changes each time."""
    age_seconds: float
    """How long ago that was, by the sink's clock."""
    epoch: int
    """The latest epoch of the camera."""


class HoldsOwners(Protocol):
    """A sink that keeps the owners of cameras."""

    def own(self, bids: Mapping[str, Bid]) -> Mapping[str, Holder | CameraRefused]:
        """Place a bid for each camera. Raises SinkError."""
        ...


@dataclass
class _Camera:
    """What is known of a camera's ownership."""

    take_over: bool
    ours: bool = False
    unasked: bool = False
    """The sink could not be asked, and the camera is watched all the same."""
    due_at: float = 0.0
    last: tuple[str | None, str] | None = None
    """Owner and when it was seen, at the last look."""
    free_at: float = 0.0
    why_held: str = ""

    def bid(self, owner: str, now: float) -> Bid:
        if self.ours or self.last is None:
            return Bid(owner, NOBODY)
        holder, seen = self.last
        if self.take_over:
            return Bid(owner, holder or NOBODY)
        if now >= self.free_at:
            return Bid(owner, holder or NOBODY, seen)
        return Bid(owner, JUST_LOOK)


class Ownership:
    """What one worker owns, and waits to own."""

    def __init__(
        self,
        sink: HoldsOwners | None,
        owner: str = "",
        *,
        take_over: bool = False,
        on_taken: Callable[[str, int], object] = lambda camera_id, epoch: None,
    ) -> None:
        """``sink``: None if it knows no owners: every camera may be watched.

        ``owner`` names this worker. ``take_over``: take each camera from whoever has it, once.
        ``on_taken`` is called with a camera and its latest epoch before the camera may be watched.
        """
        self._sink = sink
        self._owner = owner
        self._take_over = take_over
        self._on_taken = on_taken
        self._cameras: dict[str, _Camera] = {}
        self._asked_before: set[str] = set()
        self._watchable: list[str] = []

    def add(self, camera_ids: Iterable[str]) -> None:
        """Ask for these cameras with the next ``step``."""
        for camera_id in camera_ids:
            first = camera_id not in self._asked_before
            self._asked_before.add(camera_id)
            if self._sink is None:
                self._watchable.append(camera_id)
            elif camera_id not in self._cameras:
                self._cameras[camera_id] = _Camera(self._take_over and first)

    def add_watched(self, events: Sequence[Event], *, but: Collection[str]) -> None:
        """Ask for the cameras that these events show being watched, if that is not done yet.

        A camera that ended, and was given back, may be watched again later.
        """
        if self._sink is None:
            return
        for event in events:
            camera_id = event.data.camera_id
            is_last = isinstance(event, CameraEvent) and event.data.state in ("ended", "degraded")
            if not is_last and camera_id not in self._cameras and camera_id not in but:
                self._cameras[camera_id] = _Camera(take_over=False, unasked=True)

    def give_back_ended(
        self, events: Sequence[Event], are_later_than: Callable[[str, int], bool]
    ) -> None:
        """Let others have the cameras that these published events leave ended.

        ``are_later_than`` tells the events of an earlier run, which end nothing: whether a camera
        has events of a later epoch.
        """
        last = {event.data.camera_id: event for event in events}
        ended = [
            camera_id
            for camera_id, event in last.items()
            if isinstance(event, CameraEvent)
            and event.data.state == "ended"
            and not are_later_than(camera_id, event.data.epoch)
        ]
        self.give_back(ended)

    def lost(self, camera_ids: Iterable[str]) -> None:
        """Stop asking for these cameras: others have them, or nobody wants them."""
        for camera_id in camera_ids:
            self._cameras.pop(camera_id, None)

    def give_back(self, camera_ids: Collection[str] | None = None) -> None:
        """Let others have these cameras at once; None: all. Not vital: their time runs out."""
        ours = [name for name, camera in self._cameras.items() if camera.ours]
        ours = [name for name in ours if camera_ids is None or name in camera_ids]
        self.lost(list(self._cameras) if camera_ids is None else camera_ids)
        if self._sink is None or not ours:
            return
        try:
            self._sink.own({name: Bid("", expected=self._owner) for name in ours})
        except SinkError as error:
            log.debug("cannot give back %s: %s", ", ".join(ours), error)

    def may_watch(self, camera_id: str) -> bool:
        """Whether the camera is ours, or the sink cannot be asked."""
        camera = self._cameras.get(camera_id)
        return self._sink is None or (camera is not None and (camera.ours or camera.unasked))

    def take_watchable(self) -> list[str]:
        """The cameras that may be watched since the last call."""
        found, self._watchable = self._watchable, []
        return found

    @property
    def held(self) -> dict[str, str]:
        """Cameras that other workers watch at present, and what to do about it."""
        cameras = list(self._cameras.items())
        return {name: camera.why_held for name, camera in cameras if camera.why_held}

    def seconds_left(self) -> float | None:
        """Seconds until ``step`` has something to do; None: never."""
        now = time.monotonic()
        return min((max(c.due_at - now, 0) for c in self._cameras.values()), default=None)

    def step(self, *, all_due: bool = False) -> list[CameraRefused]:
        """Ask, look and renew, where that is due; returns the cameras that are ours no more.

        Raises SinkUnavailable, also if the owner of a camera that is being watched cannot be
        decided yet.
        """
        now = time.monotonic()
        due = {n: c for n, c in self._cameras.items() if all_due or now >= c.due_at}
        if self._sink is None or not due:
            return []
        try:
            answers = self._sink.own({n: c.bid(self._owner, now) for n, c in due.items()})
        except SinkUnavailable:
            self._not_answered()
            raise
        refused: list[CameraRefused] = []
        for camera_id, answer in answers.items():
            camera = due[camera_id]
            if isinstance(answer, CameraRefused):
                refused.append(answer)
            elif answer.taken:
                self._taken(camera_id, camera, answer)
            elif camera.ours:
                refused.append(TakenOver(camera_id, answer.owner or ""))
            else:
                self._look(camera_id, camera, answer)
                if camera.why_held and camera.unasked:
                    refused.append(TakenOver(camera_id, answer.owner or ""))
        self.lost([error.camera_id for error in refused])
        undecided = [name for name, camera in self._cameras.items() if camera.unasked]
        if undecided and not refused:
            raise SinkUnavailable(
                f"camera {undecided[0]}: it is not decided yet whether another worker has it"
            )
        return refused

    def _taken(self, camera_id: str, camera: _Camera, answer: Holder) -> None:
        if not camera.ours:
            self._on_taken(camera_id, answer.epoch)
            if answer.owner and answer.owner != self._owner:
                seconds = answer.age_seconds
                log.warning(
                    "camera %s: taken over from worker %s, last seen %.0f s ago",
                    camera_id, answer.owner, seconds,
                )  # fmt: skip
            camera.ours, camera.why_held = True, ""
            if not camera.unasked:
                self._watchable.append(camera_id)
        camera.unasked = False
        camera.due_at = time.monotonic() + RENEW_SECONDS

    def _look(self, camera_id: str, camera: _Camera, answer: Holder) -> None:
        """Somebody else has the camera, or had it at the last look."""
        now = time.monotonic()
        found = answer.owner, answer.seen
        if camera.last is None:
            camera.free_at = now + OWNED_SECONDS - answer.age_seconds
            if camera.free_at > now and not camera.take_over:
                log.info(
                    "camera %s: worker %s watched it %.0f s ago: waiting at most %.0f s to see "
                    "whether that one is still there",
                    camera_id, answer.owner, answer.age_seconds, camera.free_at - now,
                )  # fmt: skip
        elif answer.owner == NOBODY:
            camera.free_at = now
        elif found != camera.last:
            camera.free_at = now + OWNED_SECONDS
            self._hold(camera_id, camera, answer)
        camera.last = found
        pause = HELD_LOOK_SECONDS if camera.why_held else LOOK_SECONDS
        camera.due_at = now if camera.take_over else min(now + pause, max(camera.free_at, now))

    def _hold(self, camera_id: str, camera: _Camera, answer: Holder) -> None:
        if camera.take_over or not answer.owner:
            return
        if not camera.why_held and not camera.unasked:
            log.warning("camera %s: held by another worker (%s)", camera_id, answer.owner)
        camera.why_held = (
            f"camera {camera_id}: another worker ({answer.owner}) is watching it: stop that one, "
            "take the camera over with --take-over, or give it another id with ID=SOURCE"
        )

    def _not_answered(self) -> None:
        """Nobody could renew meanwhile: who was last seen before counts from now on."""
        for camera_id, camera in self._cameras.items():
            if camera.why_held:
                camera.free_at = time.monotonic() + OWNED_SECONDS
            elif not camera.ours and not camera.unasked:
                camera.unasked = True
                self._watchable.append(camera_id)
