"""`ssd-worker subscribe`: events as JSON Lines on stdout, or as a live table.

Imports no PyTorch, PyAV or NumPy, so that it starts at once.
"""

import json
import signal

from worker.commands.health import serving_lag
from worker.commands.wiring import on_stop_signals, resolve_redis_url
from worker.consumer import EventConsumer
from worker.consuming.lag import backlogs
from worker.settings.fields import SubscribeSettings
from worker.settings.naming import check_camera_id


def run_subscribe(settings: SubscribeSettings) -> int:
    """Print events until stopped or ``--count`` is reached; returns the exit code."""
    for camera_id in settings.cameras:
        check_camera_id(camera_id)
    url = resolve_redis_url(settings, settings.redis_url or "embedded")
    if settings.lag:
        return _print_lag(url, settings)
    if settings.pretty:
        from worker.commands.live_table import run_pretty

        return run_pretty(settings, url)
    consumer = EventConsumer(
        url,
        settings.cameras or None,
        group=settings.group,
        consumer=settings.consumer,
        start=settings.start,
        replay=settings.replay,
        prefix=settings.key_prefix,
        labels=settings.filter_labels,
        score_threshold=settings.filter_score,
        states=settings.filter_states,
    )
    printed = 0
    with (
        consumer,
        serving_lag(settings, consumer, settings.group),
        on_stop_signals(consumer.stop) as signals,
    ):
        for event in consumer:
            print(event.to_json(), flush=True)
            if settings.group is not None:
                consumer.ack(event)
            printed += 1
            if printed == settings.count:
                return 0
    return 130 if signal.SIGINT in signals else 0


def _print_lag(url: str, settings: SubscribeSettings) -> int:
    """Print what the group has not read and not acknowledged, a JSON object per camera."""
    found = backlogs(
        url,
        settings.cameras or None,
        settings.group or "",
        replay=settings.replay,
        prefix=settings.key_prefix,
    )
    for camera_id, backlog in found.items():
        line = {"camera_id": camera_id, "lag": backlog.lag, "pending": backlog.pending}
        print(json.dumps(line), flush=True)
    return 0
