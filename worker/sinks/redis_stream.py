"""The Redis Streams sink: one atomic script per batch and camera.

Delivery: ``publish.lua`` appends the events whose (epoch, seq) is newer than the camera's producer
hash and updates the hash atomically. So a retry after a lost reply appends nothing, a replay
resumes from the hash, and a stalled worker with an older epoch is fenced off (Fenced), as is one
that is not the camera's owner any more (TakenOver). ``own.lua`` makes and keeps owners.
Cost: one round trip per batch, in a cluster one per camera and batch, plus one per camera every
30 s to announce its id. Each camera's script is atomic, the batch as a whole is not.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from worker.errors import (
    CameraRefused,
    Fenced,
    SinkError,
    SinkUnavailable,
    TakenOver,
    UsageError,
    WorkerError,
)
from worker.events import CameraEvent, Event
from worker.keys import Keys
from worker.publishing.checkpoint import Checkpoint, ReplayClaim
from worker.publishing.ownership import Bid, Holder
from worker.servers.address import (
    MISSING_SCRIPT,
    REDIS_ERRORS,
    REPLY_TIMEOUT_SECONDS,
    RedisClient,
    connect,
    destination,
    explain,
    is_cluster,
    server_of_url,
)
from worker.snapshots import Snapshot

ANNOUNCE_SECONDS = 30.0


class RedisStreamSink:
    """Publishes to ``{prefix}:{CAMERA}:detections``, or ``:replay`` for claimed recordings."""

    name = "Redis"

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "ssd",
        stream_maxlen: int = 0,
        owner: str = "",
        reply_timeout: float = REPLY_TIMEOUT_SECONDS,
        before_connecting: Callable[[], object] = lambda: None,
    ) -> None:
        """``stream_maxlen`` caps each stream approximately (MAXLEN ~); 0 does not trim it.
        ``owner``: this worker; a camera that belongs to another is refused. "": not checked.

        ``before_connecting`` may start the server, or raise WorkerError.

        Connects on the first call. Each call raises SinkUnavailable while the server is
        unavailable, UsageError for a URL that cannot work, and SinkError if the server refuses it.
        """
        self._url = url
        self._reply_timeout = reply_timeout
        self._before_connecting = before_connecting
        self._redis: _ScriptedClient | None = None
        self._keys = Keys(prefix)
        self.destination = f"{destination(url)} {prefix}"
        """Identifies server, database and prefix; contains no secret."""
        self._stream_maxlen = stream_maxlen
        self._owner = owner
        self._claims: dict[str, str] = {}
        self._announced: dict[str, float] = {}

    def publish(self, events: Sequence[Event]) -> None:
        """Append the events that the streams lack; for each camera all or none."""
        by_camera: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            by_camera[event.data.camera_id].append(event)
        calls = {camera_id: self._call(camera_id, found) for camera_id, found in by_camera.items()}
        for camera_id in calls:
            self._announce(camera_id)
        for camera_id, appended in self._answers("publish.lua", calls):
            self._check(camera_id, by_camera[camera_id][-1].data.epoch, appended)

    def last_epoch(self, camera_id: str) -> int:
        """The latest epoch of a live camera that Redis knows; 0 if none."""
        key = self._keys.camera(camera_id, replay=False).producer
        with self._connected(camera_id) as redis:
            held = redis.client.hget(key, "epoch") or 0
        try:
            return int(held)
        except ValueError:
            raise _damaged(camera_id, key) from None

    def own(self, bids: Mapping[str, Bid]) -> dict[str, Holder | CameraRefused]:
        """Place a bid for each live camera; see ``worker.publishing.ownership``."""
        found: dict[str, Holder | CameraRefused] = {}
        calls = {
            camera_id: _Call(
                [self._keys.camera(camera_id, replay=False).producer],
                [bid.owner, bid.expected, bid.expected_seen],
            )
            for camera_id, bid in bids.items()
        }
        while calls:  # a camera that is refused may leave the others without an answer
            try:
                for camera_id, answer in self._answers("own.lua", calls):
                    found[camera_id] = _holder(*answer)
            except CameraRefused as error:
                found[error.camera_id] = error
            calls = {name: call for name, call in calls.items() if name not in found}
        return found

    def claim_replay(self, camera_id: str, claim: ReplayClaim, *, restart: bool) -> Checkpoint:
        """Claim a camera's replay stream for one recording, model and set of settings.

        ``restart`` deletes what an earlier replay published. Raises UsageError if the stream holds
        another recording, or this one analysed with another model or other settings, and SinkError
        if its checkpoint is damaged.
        """
        keys = self._keys.camera(camera_id, replay=True)
        fields = ("recording", claim.recording, "model", claim.model, "settings", claim.settings)
        with self._connected(camera_id) as redis:
            reply = redis.claim(
                _Call(
                    [keys.stream, keys.producer], [claim.digest, "1" if restart else "0", *fields]
                )
            )
        values = [value.decode() if value is not None else "" for value in reply]
        if len(values) == 3:
            raise UsageError(_conflict(camera_id, claim, *values))
        try:
            checkpoint = Checkpoint(events=int(values[0]) + 1, finished=values[1] == "1")
        except ValueError:
            raise _damaged_replay(camera_id) from None
        self._claims[camera_id] = claim.digest
        return checkpoint

    def put_snapshots(self, snapshots: Sequence[tuple[Snapshot, float]]) -> None:
        """Replace the snapshots of live cameras, each for that many seconds.

        A camera that belongs to another worker, or is at a later epoch, keeps what it has.
        """
        calls = {}
        for snapshot, seconds in snapshots:
            info, keys = snapshot.info, self._keys.camera(snapshot.info.camera_id, replay=False)
            calls[info.camera_id] = _Call(
                [keys.producer, keys.snapshot],
                [self._owner, info.epoch, max(round(seconds * 1000), 1), snapshot.jpeg],
            )
        for _ in self._answers("snapshot.lua", calls):
            pass

    def close(self) -> None:
        """Close the connections."""
        if self._redis is not None:
            self._redis.client.close()
            self._redis = None
        self._announced.clear()  # the next server may be empty

    def _call(self, camera_id: str, events: Sequence[Event]) -> "_Call":
        """The call of ``publish.lua`` for a camera's events."""
        keys = self._keys.camera(camera_id, replay=camera_id in self._claims)
        claim = self._claims.get(camera_id, "")
        owner = "" if claim else self._owner
        arguments: list[str | int | bytes] = [claim, owner, self._stream_maxlen]
        for event in events:
            state, reason = (
                (event.data.state, event.data.reason)
                # Lost events are reported as "degraded"; the camera itself stays as it was.
                if isinstance(event, CameraEvent) and event.data.reason != "events_lost"
                else ("", "")
            )
            arguments += [event.data.epoch, event.data.seq]
            arguments += [event.id, event.type, event.to_json(), state, reason]
        return _Call([keys.stream, keys.producer, keys.status], arguments)

    def _announce(self, camera_id: str) -> None:
        """Add an id to its set for discovery, periodically: a server may lose its data."""
        with self._connected(camera_id) as redis:
            if time.monotonic() >= self._announced.get(camera_id, 0):
                known = self._keys.ids(replay=camera_id in self._claims)
                redis.client.sadd(known, camera_id)
                self._announced[camera_id] = time.monotonic() + ANNOUNCE_SECONDS

    def _answers(self, script: str, calls: Mapping[str, "_Call"]) -> Iterator[tuple[str, Any]]:
        """The script's answer to each camera's call."""
        if not calls:
            return
        with self._connected(next(iter(calls))) as redis:
            answers = redis.run(script, list(calls.values()))
        for camera_id, answer in zip(calls, answers, strict=False):  # they may end with an error
            with self._connected(camera_id):
                if isinstance(answer, Exception):
                    raise answer
            yield camera_id, answer

    def _check(self, camera_id: str, epoch: int, appended: int) -> None:
        """Raise the error that a negative answer means; ``epoch`` is that of the newest event."""
        if appended == -1:
            raise Fenced(
                camera_id,
                epoch,
                f"camera {camera_id}: another worker has taken over its stream; "
                "give each camera to one worker, or another id with ID=SOURCE",
            )
        if appended == -2:
            raise SinkError(
                f"camera {camera_id}: Redis has lost events that it had confirmed: "
                "run the same command again to republish them"
            )
        if appended == -4:
            keys = self._keys.camera(camera_id, replay=camera_id in self._claims)
            raise _damaged(camera_id, keys.producer)
        if appended == -5:
            raise TakenOver(camera_id)
        if appended == -3:
            raise SinkError(
                f"camera {camera_id}: Redis has lost all events of this replay: "
                "run the same command again to republish them"
            )

    @contextmanager
    def _connected(self, camera_id: str) -> Iterator["_ScriptedClient"]:
        """The client, reconnected if it was lost: another server may have taken over."""
        try:
            if self._redis is None:
                self._redis = self._connect()
            yield self._redis
        except REDIS_ERRORS as error:
            raise self._lost_by(error, camera_id) from error

    def _lost_by(self, error: Exception, camera_id: str) -> Exception:
        """What to raise; not connected any more if the server is unavailable."""
        explained = explain(error, server_of_url(self._url))
        if "WRONGTYPE" in str(error):  # one of the camera's keys holds someone else's data
            return CameraRefused(camera_id, f"camera {camera_id}: {explained}")
        if isinstance(explained, SinkUnavailable):
            self.close()
        return explained

    def _connect(self) -> "_ScriptedClient":
        try:
            self._before_connecting()
        except WorkerError as error:
            raise SinkUnavailable(str(error)) from error
        return _ScriptedClient(connect(self._url, self._reply_timeout))


@dataclass(frozen=True, slots=True)
class _Call:
    """The arguments of one call of a script."""

    keys: list[str]
    arguments: list[str | int | bytes]


class _ScriptedClient:
    """A client with the sink's scripts."""

    def __init__(self, client: RedisClient) -> None:
        self.client = client
        self._scripts = {
            name: client.register_script(_script(name))
            for name in ("publish.lua", "own.lua", "claim.lua", "snapshot.lua")
        }

    def claim(self, call: _Call) -> Any:
        """The answer of ``claim.lua``."""
        return self._scripts["claim.lua"](keys=call.keys, args=call.arguments)

    def run(self, script: str, calls: Sequence[_Call]) -> list[Any]:
        """The answer to each call of a script, or the error that it failed with.

        Calls after a failed one may have no answer. Raises errors that end the connection. The
        script must do no harm if it runs twice.
        """
        # In a cluster, whose servers each have some of the keys, redis-py pipelines no scripts.
        if len(calls) == 1 or is_cluster(self.client):
            return self._one_by_one(script, calls)
        answers = self._pipelined(script, calls)
        if any(isinstance(answer, MISSING_SCRIPT) for answer in answers):
            self.client.script_load(self._scripts[script].script)
            answers = self._pipelined(script, calls)
        return answers

    def _one_by_one(self, script: str, calls: Sequence[_Call]) -> list[Any]:
        answers: list[Any] = []
        for call in calls:
            try:
                answers.append(self._scripts[script](keys=call.keys, args=call.arguments))
            except REDIS_ERRORS as error:
                return [*answers, error]
        return answers

    def _pipelined(self, script: str, calls: Sequence[_Call]) -> list[Any]:
        with self.client.pipeline(transaction=False) as pipeline:
            for call in calls:
                sha = self._scripts[script].sha
                pipeline.evalsha(sha, len(call.keys), *call.keys, *call.arguments)
            answers: list[Any] = pipeline.execute(raise_on_error=False)
        return answers


def _holder(taken: bytes, owner: bytes | None, seen: bytes, age_ms: bytes, epoch: bytes) -> Holder:
    return Holder(
        taken=taken == b"1",
        owner=None if owner is None else owner.decode(errors="replace"),
        seen=seen.decode(errors="replace"),
        age_seconds=max(int(age_ms) / 1000, 0),
        epoch=int(epoch) if epoch.isdigit() else 0,  # a damaged hash refuses the events
    )


def _damaged(camera_id: str, key: str) -> CameraRefused:
    return CameraRefused(camera_id, f"camera {camera_id}: {key} holds no valid numbers: delete it")


def _damaged_replay(camera_id: str) -> SinkError:
    return SinkError(f"the producer hash of camera {camera_id} is damaged: use --restart")


@cache
def _script(name: str) -> str:
    return (files("worker.sinks") / name).read_text(encoding="utf-8")


def _conflict(camera_id: str, claim: ReplayClaim, recording: str, model: str, settings: str) -> str:
    if recording != claim.recording:
        differs = "another recording"
    elif model != claim.model:
        differs = "this recording, analysed with another model"
    elif settings != claim.settings:
        differs = "this recording, analysed with other settings"
    else:
        raise _damaged_replay(camera_id)
    return (
        f"the replay stream of camera {camera_id} already holds {differs}: "
        "give this one another id (ID=PATH), or replace the stream with --restart"
    )
