"""How far a group, or a reader, is behind in a stream: lag and pending entries.

The server's own ``lag`` is wrong after entries that the group had not read were trimmed (redis
issue 13957; Redis 7.0 stays wrong until the group has read everything). So it is used only if
nothing was ever removed from the stream; else entries are counted, up to a limit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from worker.consuming.discovery import announced_cameras
from worker.consuming.entries import parse_id
from worker.consuming.reading import is_of_one_stream, says_missing
from worker.errors import UsageError
from worker.keys import Keys
from worker.servers.address import REDIS_ERRORS, RedisClient, connect, explain, server_of_url

COUNT_LIMIT = 1000
"""Entries are transferred to be counted: about 1.3 MB for so many."""


@dataclass(frozen=True)
class Backlog:
    """What a group has still to do in one stream; None: unknown."""

    lag: int | None
    """Entries that it has not read."""
    pending: int | None
    """Entries that its consumers have read and not acknowledged."""


def backlogs(
    url: str, cameras: Sequence[str] | None, group: str, *, replay: bool, prefix: str
) -> dict[str, Backlog]:
    """The backlog of a group by camera: of those given, or all, whose streams have the group.

    Changes nothing in Redis. Raises UsageError if no stream has the group, SinkUnavailable or
    SinkError.
    """
    keys = Keys(prefix)
    found = {}
    client = connect(url)
    try:
        if cameras is None:
            cameras, _ = announced_cameras(client, keys.ids(replay=replay))
        for camera_id in cameras:
            stream = keys.camera(camera_id, replay=replay).stream
            backlog = backlog_of_group(client, stream, group)
            if backlog is not None:
                found[camera_id] = backlog
    except REDIS_ERRORS as error:
        raise explain(error, server_of_url(url)) from error
    finally:
        client.close()
    if not found:
        raise UsageError(f"no stream has the group {group!r}: check its name, and --replay")
    return found


def backlog_of_group(client: RedisClient, stream: str, group: str) -> Backlog | None:
    """The backlog of a group in a stream; None if the stream does not have the group."""
    try:
        groups = client.xinfo_groups(stream)
    except ResponseError as error:
        if says_missing(error):
            return None
        if is_of_one_stream(error):  # the key is not a stream
            return Backlog(None, None)
        raise
    for found in groups:
        if found["name"] == group.encode():
            position = found["last-delivered-id"].decode()
            return Backlog(lag_after(client, stream, position, found.get("lag")), found["pending"])
    return None


def lag_after(
    client: RedisClient, stream: str, position: str, servers_lag: int | None = None
) -> int | None:
    """The number of entries after an id; None if it cannot be said.

    ``servers_lag``: what the server says of a group at this position, if it says anything.
    """
    try:
        info = client.xinfo_stream(stream)
    except ResponseError as error:
        if says_missing(error):
            return 0
        if is_of_one_stream(error):
            return None
        raise
    if not info["length"] or parse_id(position) >= parse_id(info["last-entry"][0]):
        return 0
    if parse_id(position) < parse_id(info["first-entry"][0]):
        return int(info["length"])
    if servers_lag is not None and info.get("entries-added") == info["length"]:
        return servers_lag
    counted: list[Any] = client.xrevrange(stream, "+", f"({position}", count=COUNT_LIMIT + 1)
    return len(counted) if len(counted) <= COUNT_LIMIT else None
