"""Forgetting a camera or a replay: its keys in Redis, deleted in one script.

Takes an id; gives the names of what was deleted. A camera that a live worker owns is refused.
"""

from dataclasses import dataclass
from importlib.resources import files

from worker.errors import SinkError
from worker.keys import Keys
from worker.publishing.ownership import OWNED_SECONDS
from worker.servers.address import REDIS_ERRORS, connect, explain, server_of_url


@dataclass(frozen=True)
class Deleted:
    """A key that was deleted."""

    key: str
    events: int | None
    """How many it held; None for a key that holds none."""


def forget(
    url: str, keys: Keys, camera_id: str, *, live: bool = True, force: bool = False
) -> list[Deleted]:
    """Delete the streams and keys of an id, and take it out of the sets for discovery.

    ``live``: those of the live camera too, not only those of the replay. ``force``: even if a
    worker is publishing to them. Raises SinkError, also if a worker is and there is no ``force``.
    """
    camera, replay = (keys.camera(camera_id, replay=of_replay) for of_replay in (False, True))
    names = [replay.stream, replay.producer]
    if live:
        names = [camera.producer, camera.stream, camera.status, camera.snapshot, *names]
    owned_ms = "" if force or not live else round(OWNED_SECONDS * 1000)
    client = connect(url)
    try:
        script = client.register_script(
            (files("worker.sinks") / "forget.lua").read_text(encoding="utf-8")
        )
        answer, *found = (value.decode() for value in script(keys=names, args=[owned_ms]))
        if answer == "owned":
            raise SinkError(
                f"camera {camera_id}: worker {found[0]} is publishing to it, last seen "
                f"{int(found[1]) / 1000:.0f} s ago: stop that one first, delete only its replay "
                "with --replay, or give --force"
            )
        for replays in (False, True) if live else (True,):
            client.srem(keys.ids(replay=replays), camera_id)
    except REDIS_ERRORS as error:
        raise explain(error, server_of_url(url)) from error
    finally:
        client.close()
    pairs = zip(found[::2], map(int, found[1::2]), strict=True)
    return [Deleted(key, None if events < 0 else events) for key, events in pairs]
