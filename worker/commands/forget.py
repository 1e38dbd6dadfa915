"""`ssd-worker forget`: deletes what Redis holds of cameras and replays.

Asks nothing; prints what it deleted. Imports no PyTorch, PyAV or NumPy, so that it starts at once.
"""

import sys

from worker.commands.wiring import resolve_redis_url
from worker.errors import SinkError
from worker.keys import Keys
from worker.servers.address import server_of_url
from worker.settings.fields import ForgetSettings
from worker.settings.naming import check_camera_id
from worker.sinks.forgetting import forget


def run_forget(settings: ForgetSettings) -> int:
    """Forget each id; returns 1 if one was refused or unknown, once the others are done."""
    for camera_id in settings.ids:
        check_camera_id(camera_id)
    url = resolve_redis_url(settings, settings.redis_url or "embedded")
    code = 0
    for camera_id in settings.ids:
        try:
            deleted = forget(
                url,
                Keys(settings.key_prefix),
                camera_id,
                live=not settings.replay,
                force=settings.force,
            )
        except SinkError as error:
            print(f"ssd-worker: {error}", file=sys.stderr)
            code = 1
            continue
        for each in deleted:
            events = "" if each.events is None else f": {each.events} events"
            print(f"deleted {each.key}{events}")
        if not deleted:
            what = "replay" if settings.replay else "camera or replay"
            print(
                f"ssd-worker: {camera_id}: Redis at {server_of_url(url)} holds no {what} of this "
                "name: check the name, --redis-url and --key-prefix",
                file=sys.stderr,
            )
            code = 1
    return code
