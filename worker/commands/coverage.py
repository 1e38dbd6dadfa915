"""`ssd-worker coverage`: when cameras were watched, as tables, JSON and a picture.

Imports no PyTorch, PyAV or NumPy, so that it starts at once; matplotlib only for ``--plot``.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from worker.commands.requirements import INSTALL_PLOTS, check_libraries, check_place
from worker.commands.tables import print_table
from worker.commands.wiring import resolve_redis_url
from worker.coverage import STATES, Interval, coverage_of
from worker.coverage.interval import in_utc
from worker.keys import Keys
from worker.servers.address import server_of_url
from worker.settings.coverage import CoverageSettings
from worker.settings.naming import check_camera_id

FRAMES = ("analysed", "dropped", "skipped")
Found = Mapping[str, Sequence[Interval]]


def run_coverage(settings: CoverageSettings) -> int:
    """Print the coverage of cameras, and draw it; returns the exit code."""
    for camera_id in settings.cameras:
        check_camera_id(camera_id)
    start, end = settings.period(datetime.now(UTC))
    if settings.plot is not None:
        check_libraries({"--plot": "matplotlib"}, INSTALL_PLOTS)
        check_place(settings.plot, may_exist=True)
    url = resolve_redis_url(settings, settings.redis_url or "embedded")
    found = coverage_of(url, Keys(settings.key_prefix), settings.cameras or None, start, end)
    if not found:
        print(
            f"Redis at {server_of_url(url)} knows no cameras: start `ssd-worker run`, or check "
            "--redis-url and --key-prefix",
            file=sys.stderr,
        )
    if settings.as_json:
        print(json.dumps(_as_json(found, start, end)))
    elif found:
        print_table(_summary(found))
        print()
        print_table(_rows(found, _zone(start, end)))
    if settings.plot is not None and found:
        from worker.commands.coverage_plot import write_plot

        write_plot(found, start, end, settings.plot)
    return 0


def seconds_by_state(intervals: Sequence[Interval]) -> dict[str, float]:
    """How long each state lasted, in seconds; states that did not occur have 0."""
    seconds = dict.fromkeys(map(str, STATES), 0.0)
    for interval in intervals:
        seconds[interval.state] += interval.seconds
    return seconds


def _as_json(found: Found, start: datetime, end: datetime) -> dict[str, object]:
    return {
        "from": in_utc(start),
        "to": in_utc(end),
        "cameras": {
            camera_id: {
                "seconds": {
                    state: round(seconds, 3) for state, seconds in seconds_by_state(each).items()
                },
                "intervals": [interval.as_dict() for interval in each],
            }
            for camera_id, each in found.items()
        },
    }


def _shown(camera_id: str) -> str:
    """An id as a terminal may get it: other tools may have put any characters into it."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in camera_id)


def _summary(found: Found) -> list[list[str]]:
    """Shares of the whole time, in percent."""
    rows = [["camera", *map(str, STATES)]]
    for camera_id, intervals in found.items():
        seconds = seconds_by_state(intervals)
        whole = sum(seconds.values())
        rows.append([_shown(camera_id), *(_percent(each / whole) for each in seconds.values())])
    return rows


def _percent(share: float) -> str:
    """Never 0 % of something, or 100 % of less than all."""
    if share in (0, 1):
        return f"{share:.0%}" if share else "-"
    return f"{min(max(share * 100, 0.01), 99.99):.2f}%"


def _rows(found: Found, zone: str) -> list[list[str]]:
    # The frames of `lost` and `unknown` are not known: "-".
    rows = [["camera", f"from ({zone})", "to", "for", "state", "reason", *FRAMES]]
    for camera_id, intervals in found.items():
        for each in intervals:
            frames = (each.frames_analysed, each.frames_dropped, each.frames_skipped)
            lost = f" ({each.events_lost})" if each.events_lost else ""
            rows.append(
                [
                    _shown(camera_id),
                    _local(each.start),
                    _local(each.end),
                    _duration(each.end - each.start),
                    each.state,
                    (each.reason or "-") + lost,
                    *(
                        str(count) if each.state in ("watched", "reduced") else "-"
                        for count in frames
                    ),
                ]
            )
    return rows


def _zone(start: datetime, end: datetime) -> str:
    """What the local times are in; between summer and winter they are in two."""
    zones = {time.astimezone().strftime("UTC%z") for time in (start, end)}
    return zones.pop().replace("UTC+0000", "UTC") if len(zones) == 1 else "local time"


def _local(time: datetime) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _duration(length: timedelta) -> str:
    seconds = length.total_seconds()
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"
