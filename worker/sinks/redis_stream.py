"""The Redis Streams sink: one atomic script per batch and camera.

Delivery: ``publish.lua`` appends the events whose (epoch, seq) is newer than the camera's producer
hash and moves the hash in the same step. So a re-send after a lost reply adds nothing, a replay
goes on where the hash stands, and a stalled worker with an older epoch is turned away (Fenced).
Cost: one round trip per camera and batch.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from importlib.resources import files

from worker.checkpoint import Checkpoint, ReplayClaim
from worker.errors import Fenced, SinkError, UsageError
from worker.events import CameraEvent, Event
from worker.keys import Keys
from worker.redis_url import REDIS_ERRORS, RedisClient, connect, explain, server_name

ANNOUNCE_SECONDS = 30.0


class RedisStreamSink:
    """Publishes to ``{prefix}:{CAMERA}:detections``, or ``:replay`` for claimed recordings."""

    name = "Redis"

    def __init__(self, url: str, *, prefix: str = "ssd", stream_maxlen: int = 0) -> None:
        """Connect. ``stream_maxlen`` caps a stream (about, as MAXLEN ~ does); 0 leaves it.

        Raises UsageError, SinkUnavailable or SinkError.
        """
        self._client: RedisClient = connect(url)
        self._server = server_name(self._client)
        self._keys = Keys(prefix)
        self._stream_maxlen = stream_maxlen
        self._claims: dict[str, str] = {}
        self._announced: dict[str, float] = {}
        self._publish = self._client.register_script(_script("publish.lua"))
        self._claim = self._client.register_script(_script("claim.lua"))

    def publish(self, events: Sequence[Event]) -> None:
        """Append the events that the streams do not have; all or none of a camera's."""
        by_camera: dict[tuple[str, int], list[Event]] = defaultdict(list)
        for event in events:
            by_camera[event.data.camera_id, event.data.epoch].append(event)
        for (camera_id, epoch), of_camera in by_camera.items():
            self._publish_camera(camera_id, epoch, of_camera)

    def last_epoch(self, camera_id: str) -> int:
        """The latest epoch known of a live camera; 0 if none is."""
        key = self._keys.camera(camera_id, replay=False).producer
        try:
            return int(self._client.hget(key, "epoch") or 0)
        except REDIS_ERRORS as error:
            raise explain(error, self._server) from error

    def claim_replay(self, camera_id: str, claim: ReplayClaim, *, restart: bool) -> Checkpoint:
        """Take a camera's replay stream for one recording, model and set of settings.

        ``restart`` deletes what an earlier replay published. Raises UsageError if the stream holds
        another recording, or the same with another model or other settings.
        """
        keys = self._keys.camera(camera_id, replay=True)
        fields = ("recording", claim.recording, "model", claim.model, "settings", claim.settings)
        try:
            reply = self._claim(
                keys=[keys.stream, keys.producer],
                args=[claim.digest, "1" if restart else "0", *fields],
            )
        except REDIS_ERRORS as error:
            raise explain(error, self._server) from error
        values = [value.decode() if value is not None else "" for value in reply]
        if len(values) == 3:
            raise UsageError(_conflict(camera_id, claim, *values))
        self._claims[camera_id] = claim.digest
        return Checkpoint(events=int(values[0]) + 1, finished=values[1] == "1")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _publish_camera(self, camera_id: str, epoch: int, events: Sequence[Event]) -> None:
        replay = camera_id in self._claims
        keys = self._keys.camera(camera_id, replay=replay)
        arguments: list[str | int] = [epoch, self._claims.get(camera_id, ""), self._stream_maxlen]
        for event in events:
            state, reason = (
                (event.data.state, event.data.reason)
                # A worker that lost events is degraded for that moment, not from then on.
                if isinstance(event, CameraEvent) and event.data.state != "degraded"
                else ("", "")
            )
            arguments += [event.data.seq, event.id, event.type, event.to_json(), state, reason]
        try:
            if time.monotonic() >= self._announced.get(camera_id, 0):
                # Again and again: the set may be lost with the server's data.
                self._client.sadd(self._keys.cameras, camera_id)
                self._announced[camera_id] = time.monotonic() + ANNOUNCE_SECONDS
            appended = self._publish(keys=[keys.stream, keys.producer, keys.status], args=arguments)
        except REDIS_ERRORS as error:
            raise explain(error, self._server) from error
        if appended == -1:
            raise Fenced(
                camera_id,
                f"camera {camera_id}: another worker has taken over its stream; "
                "give each camera to one worker, or another id with ID=SOURCE",
            )
        if appended == -2:
            raise SinkError(
                f"camera {camera_id}: Redis holds fewer events than it confirmed: "
                "the same command publishes those again"
            )


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
