"""The Redis Streams sink: one atomic script per batch and camera.

Delivery: ``publish.lua`` appends the events whose (epoch, seq) is newer than the camera's producer
hash and moves the hash in the same step. So a re-send after a lost reply adds nothing, a replay
goes on where the hash stands, and a stalled worker with an older epoch is turned away (Fenced).
Cost: one round trip per camera and batch.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files

from worker.checkpoint import Checkpoint, ReplayClaim
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
from worker.redis_url import (
    REDIS_ERRORS,
    REPLY_TIMEOUT_SECONDS,
    RedisClient,
    connect,
    destination,
    explain,
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
        for camera_id, of_camera in by_camera.items():
            self._publish_camera(camera_id, of_camera)

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

    def _publish_camera(self, camera_id: str, events: Sequence[Event]) -> None:
        replay = camera_id in self._claims
        keys = self._keys.camera(camera_id, replay=replay)
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
        with self._connected(camera_id) as redis:
            if time.monotonic() >= self._announced.get(camera_id, 0):
                # Again and again: the set may be lost with the server's data.
                redis.client.sadd(self._keys.cameras, camera_id)
                self._announced[camera_id] = time.monotonic() + ANNOUNCE_SECONDS
            appended = redis.publish(keys=[keys.stream, keys.producer, keys.status], args=arguments)
        if appended == -1:
            raise Fenced(
                camera_id,
                events[-1].data.epoch,
                f"camera {camera_id}: another worker has taken over its stream; "
                "give each camera to one worker, or another id with ID=SOURCE",
            )
        if appended == -2:
            raise SinkError(
                f"camera {camera_id}: Redis holds fewer events than it confirmed: "
                "the same command publishes those again"
            )
        if appended == -4:
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


class _Connection:
    """A client and the scripts that it runs."""

    def __init__(self, client: RedisClient) -> None:
        self.client = client
        self.publish = client.register_script(_script("publish.lua"))
        self.claim = client.register_script(_script("claim.lua"))


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
