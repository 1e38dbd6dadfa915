"""The newest events of each stream, and the newest picture: what there is to show at once.

Changes nothing in Redis. Entries that hold no event are passed over: the consumer reports those
that it reads.
"""

from collections.abc import Sequence

from redis.exceptions import NoPermissionError, ResponseError

from worker.consuming.discovery import announced_cameras
from worker.consuming.reading import is_of_one_stream
from worker.errors import SinkError
from worker.events import Event, parse_event
from worker.keys import Keys
from worker.servers.address import REDIS_ERRORS, RedisClient, connect, explain, server_of_url

LOOK_BACK = 20
"""Entries per stream: the last state of a camera that is quiet is among them."""


def newest_events(
    url: str, cameras: Sequence[str] | None, *, replay: bool, prefix: str
) -> dict[str, list[Event]]:
    """The last ``LOOK_BACK`` events by camera, oldest first: of those given, or of all.

    A camera without a stream has none. Raises UsageError, SinkUnavailable or SinkError.
    """
    keys = Keys(prefix)
    client = connect(url)
    try:
        if cameras is None:
            cameras = _announced(client, keys.ids(replay=replay))
        return {
            camera_id: _last(client, keys.camera(camera_id, replay=replay).stream)
            for camera_id in cameras
        }
    except REDIS_ERRORS as error:
        raise explain(error, server_of_url(url)) from error
    finally:
        client.close()


def _announced(client: RedisClient, key: str) -> list[str]:
    try:
        return announced_cameras(client, key)[0]
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        raise SinkError(f"{key} is not a set of camera ids: delete or rename it") from error


def _last(client: RedisClient, stream: str) -> list[Event]:
    try:
        entries = client.xrevrange(stream, count=LOOK_BACK)
    except ResponseError as error:
        if is_of_one_stream(error):  # the key is not a stream: the consumer says so
            return []
        raise
    events = []
    for entry_id, fields in reversed(entries):
        try:
            events.append(parse_event(fields.get(b"event", b""), (stream, entry_id.decode())))
        except ValueError:
            continue
    return events


def stored_snapshot(url: str, keys: Keys, camera_id: str) -> bytes | None:
    """A camera's last picture; None if there is none, or if this user may not read it.

    Raises SinkUnavailable or SinkError.
    """
    client = connect(url)
    try:
        found: bytes | None = client.get(keys.camera(camera_id, replay=False).snapshot)
        return found
    except ResponseError as error:
        if is_of_one_stream(error) or isinstance(error, NoPermissionError):
            return None
        raise explain(error, server_of_url(url)) from error
    except REDIS_ERRORS as error:
        raise explain(error, server_of_url(url)) from error
    finally:
        client.close()
