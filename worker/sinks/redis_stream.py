"""The Redis Streams sink: one atomic script per batch and camera.

Delivery: ``publish.lua`` appends the events whose (epoch, seq) is newer than the camera's producer
hash and moves the hash in the same step. So a re-send after a lost reply adds nothing, a replay
goes on where the hash stands, and a stalled worker with an older epoch is turned away (Fenced).
Cost: one round trip per batch, in a cluster one per camera and batch; and one per camera each 30 s,
which makes its id known. Each camera's script is atomic, the batch is not.
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
    UsageError,
    WorkerError,
)
from worker.events import CameraEvent, Event
from worker.keys import Keys
from worker.publishing.checkpoint import Checkpoint, ReplayClaim
from worker.servers.address import (
    MISSING_SCRIPT,
    REDIS_ERRORS,
    REPLY_TIMEOUT_SECONDS,
    RedisClient,
    connect,
    destination,
    explain,
    is_cluster,
    server_of,
)

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
        reply_timeout: float = REPLY_TIMEOUT_SECONDS,
        before_connecting: Callable[[], object] = lambda: None,
    ) -> None:
        """``stream_maxlen`` caps a stream (about, as MAXLEN ~ does); 0 leaves it.

        ``before_connecting`` may bring the server up, or raise WorkerError.

        Connects with the first call. Each raises SinkUnavailable while the server is away,
        UsageError for a URL that cannot work, and SinkError if the server turns us away.
        """
        self._url = url
        self._reply_timeout = reply_timeout
        self._before_connecting = before_connecting
        self._connection: _Connection | None = None
        self._keys = Keys(prefix)
        self.destination = f"{destination(url)} {prefix}"
        """Names server, database and prefix; holds no secret."""
        self._stream_maxlen = stream_maxlen
        self._claims: dict[str, str] = {}
        self._announced: dict[str, float] = {}

    def publish(self, events: Sequence[Event]) -> None:
        """Append the events that the streams do not have; all or none of a camera's."""
        by_camera: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            by_camera[event.data.camera_id].append(event)
        calls = {camera_id: self._call(camera_id, found) for camera_id, found in by_camera.items()}
        for camera_id in calls:
            self._announce(camera_id)
        for camera_id, appended in self._answers(calls):
            self._check(camera_id, by_camera[camera_id][-1].data.epoch, appended)

    def last_epoch(self, camera_id: str) -> int:
        """The latest epoch known of a live camera; 0 if none is."""
        key = self._keys.camera(camera_id, replay=False).producer
        with self._connected(camera_id) as redis:
            held = redis.client.hget(key, "epoch") or 0
        try:
            return int(held)
        except ValueError:
            raise _damaged(camera_id, key) from None

    def claim_replay(self, camera_id: str, claim: ReplayClaim, *, restart: bool) -> Checkpoint:
        """Take a camera's replay stream for one recording, model and set of settings.

        ``restart`` deletes what an earlier replay published. Raises UsageError if the stream holds
        another recording, or the same with another model or other settings.
        """
        keys = self._keys.camera(camera_id, replay=True)
        fields = ("recording", claim.recording, "model", claim.model, "settings", claim.settings)
        with self._connected(camera_id) as redis:
            reply = redis.claim(
                keys=[keys.stream, keys.producer],
                args=[claim.digest, "1" if restart else "0", *fields],
            )
        values = [value.decode() if value is not None else "" for value in reply]
        if len(values) == 3:
            raise UsageError(_conflict(camera_id, claim, *values))
        self._claims[camera_id] = claim.digest
        return Checkpoint(events=int(values[0]) + 1, finished=values[1] == "1")

    def close(self) -> None:
        """Close the connections."""
        if self._connection is not None:
            self._connection.client.close()
            self._connection = None
        self._announced.clear()  # the next server may be an empty one

    def _call(self, camera_id: str, events: Sequence[Event]) -> "_Call":
        """What ``publish.lua`` takes for a camera's events."""
        keys = self._keys.camera(camera_id, replay=camera_id in self._claims)
        arguments: list[str | int] = [self._claims.get(camera_id, ""), self._stream_maxlen]
        for event in events:
            state, reason = (
                (event.data.state, event.data.reason)
                # A worker that lost events is degraded for that moment, not from then on.
                if isinstance(event, CameraEvent) and event.data.state != "degraded"
                else ("", "")
            )
            arguments += [event.data.epoch, event.data.seq]
            arguments += [event.id, event.type, event.to_json(), state, reason]
        return _Call([keys.stream, keys.producer, keys.status], arguments)

    def _announce(self, camera_id: str) -> None:
        """Again and again: the set may be lost with the server's data."""
        with self._connected(camera_id) as redis:
            if time.monotonic() >= self._announced.get(camera_id, 0):
                redis.client.sadd(self._keys.cameras, camera_id)
                self._announced[camera_id] = time.monotonic() + ANNOUNCE_SECONDS

    def _answers(self, calls: Mapping[str, "_Call"]) -> Iterator[tuple[str, int]]:
        """What the script says to each camera's call."""
        if not calls:
            return
        with self._connected(next(iter(calls))) as redis:
            answers = redis.publish(list(calls.values()))
        for camera_id, answer in zip(calls, answers, strict=False):  # none after one that failed
            with self._connected(camera_id):
                if isinstance(answer, Exception):
                    raise answer
            yield camera_id, answer

    def _check(self, camera_id: str, epoch: int, appended: int) -> None:
        """Raise what a number below zero stands for; ``epoch`` is that of the newest event."""
        if appended == -1:
            raise Fenced(
                camera_id,
                epoch,
                f"camera {camera_id}: another worker has taken over its stream; "
                "give each camera to one worker, or another id with ID=SOURCE",
            )
        if appended == -2:
            raise SinkError(
                f"camera {camera_id}: Redis holds fewer events than it confirmed: "
                "the same command publishes those again"
            )
        if appended == -4:
            keys = self._keys.camera(camera_id, replay=camera_id in self._claims)
            raise _damaged(camera_id, keys.producer)
        if appended == -3:
            raise SinkError(
                f"camera {camera_id}: Redis has lost the replay so far, with its data: "
                "the same command publishes it again"
            )

    @contextmanager
    def _connected(self, camera_id: str) -> Iterator["_Connection"]:
        """The connection, made anew where it was lost: another server may have taken over."""
        try:
            if self._connection is None:
                self._connection = self._connect()
            yield self._connection
        except REDIS_ERRORS as error:
            explained = explain(error, server_of(self._url))
            if "WRONGTYPE" in str(error):  # someone else's key stands where the camera's should
                raise CameraRefused(camera_id, f"camera {camera_id}: {explained}") from error
            if isinstance(explained, SinkUnavailable):
                self.close()
            raise explained from error

    def _connect(self) -> "_Connection":
        try:
            self._before_connecting()
        except WorkerError as error:
            raise SinkUnavailable(str(error)) from error
        return _Connection(connect(self._url, self._reply_timeout))


@dataclass(frozen=True, slots=True)
class _Call:
    """What a script is called with."""

    keys: list[str]
    arguments: list[str | int]


class _Connection:
    """A client and the scripts that it runs."""

    def __init__(self, client: RedisClient) -> None:
        self.client = client
        self._publish = client.register_script(_script("publish.lua"))
        self.claim = client.register_script(_script("claim.lua"))

    def publish(self, calls: Sequence[_Call]) -> list[Any]:
        """The answer to each call of ``publish.lua``, or the error that came instead.

        There may be none to the calls after one that failed. Raises what ends the connection.
        """
        # redis-py runs no scripts in the pipeline of a cluster, whose servers each have some keys.
        if len(calls) == 1 or is_cluster(self.client):
            return self._one_by_one(calls)
        answers = self._in_one_go(calls)
        if any(isinstance(answer, MISSING_SCRIPT) for answer in answers):
            self.client.script_load(self._publish.script)
            answers = self._in_one_go(calls)  # it appends nothing twice
        return answers

    def _one_by_one(self, calls: Sequence[_Call]) -> list[Any]:
        answers: list[Any] = []
        for call in calls:
            try:
                answers.append(self._publish(keys=call.keys, args=call.arguments))
            except REDIS_ERRORS as error:
                return [*answers, error]
        return answers

    def _in_one_go(self, calls: Sequence[_Call]) -> list[Any]:
        with self.client.pipeline(transaction=False) as pipeline:
            for call in calls:
                pipeline.evalsha(self._publish.sha, len(call.keys), *call.keys, *call.arguments)
            answers: list[Any] = pipeline.execute(raise_on_error=False)
        return answers


def _damaged(camera_id: str, key: str) -> CameraRefused:
    return CameraRefused(camera_id, f"camera {camera_id}: {key} holds no numbers: delete it")


@cache
def _script(name: str) -> str:
    return (files("worker.sinks") / name).read_text(encoding="utf-8")


def _conflict(camera_id: str, claim: ReplayClaim, recording: str, model: str, settings: str) -> str:
    if recording != claim.recording:
        differs = "another recording"
    elif model != claim.model:
        differs = "this recording, analysed with another model,"
    elif settings != claim.settings:
        differs = "this recording, analysed with other settings,"
    else:
        raise SinkError(f"the producer hash of camera {camera_id} is damaged: use --restart")
    return (
        f"the replay stream of camera {camera_id} holds {differs} already: "
        "give this one another id (ID=PATH), or replace what is there with --restart"
    )
