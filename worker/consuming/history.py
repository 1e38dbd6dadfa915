"""What a stream holds now, from its first entry to its last: an end, where a consumer waits.

Changes nothing in Redis, and needs no more rights than a consumer without a group. Entries that
arrive meanwhile are not read, and those that are trimmed meanwhile cannot be.
"""

from collections.abc import Iterator

from redis.exceptions import ResponseError

from worker.consuming.discovery import announced_cameras
from worker.consuming.entries import Entry, entries_of, parse_id
from worker.consuming.reading import is_of_one_stream, says_missing
from worker.errors import UsageError
from worker.keys import Keys
from worker.servers.address import REDIS_ERRORS, RedisClient, connect, explain, server_of_url

READ_COUNT = 1000
"""Entries per read: about 1.3 MB."""


def stored_entries(url: str, keys: Keys, camera_id: str, *, replay: bool) -> Iterator[Entry]:
    """The entries of a camera's stream, or of its replay's, oldest first.

    Raises UsageError if there is no such stream, naming those that there are, SinkUnavailable or
    SinkError.
    """
    client = connect(url)
    try:
        stream = keys.camera(camera_id, replay=replay).stream
        try:
            last = parse_id(client.xinfo_stream(stream)["last-generated-id"])
        except ResponseError as error:
            if not says_missing(error) and not is_of_one_stream(error):
                raise
            raise _no_stream(client, url, keys, camera_id, replay) from error
        position = "0"
        while True:
            entries = entries_of(client.xread({stream: position}, count=READ_COUNT))
            for entry in entries:
                if parse_id(entry.entry_id) > last:
                    return
                yield entry
            if not entries:
                return
            position = entries[-1].entry_id.decode()
    except REDIS_ERRORS as error:
        raise explain(error, server_of_url(url)) from error
    finally:
        client.close()


def _no_stream(
    client: RedisClient, url: str, keys: Keys, camera_id: str, replay: bool
) -> UsageError:
    known = announced_cameras(client, keys.ids(replay=replay))[0]
    what, others = ("replay", "camera") if replay else ("camera", "replay")
    names = f"there are {', '.join(known[:10])}" if known else f"there is no {what} yet"
    if camera_id in announced_cameras(client, keys.ids(replay=not replay))[0]:
        option = "leave out --replay" if replay else "give --replay"
        names = f"there is a {others} of this name: {option}"
    return UsageError(
        f"{camera_id}: neither a file, nor has Redis at {server_of_url(url)} events of a {what} "
        f"with this id: {names}"
    )
