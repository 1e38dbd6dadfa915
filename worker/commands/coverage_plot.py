"""Coverage as a picture: a bar per camera, a colour per state.

matplotlib, which the extra ``train`` brings, is imported when it is needed.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from worker.coverage import Interval

COLOURS = {
    "watched": "#2b8a5f",
    "at a lower rate, by choice": "#9fd3b6",
    "at a lower rate": "#f2b134",
    "camera down": "#c8354a",
    "worker down": "#3b3f46",
    "events lost": "#8059a8",
    "unknown": "#dfe2e6",
}
"""From the one that others are drawn over to the one that is drawn last; they differ in lightness,
too."""
ORDER = ("unknown", *(name for name in COLOURS if name != "unknown"))
WIDTH_INCHES, DPI = 11.0, 110
BAR_PX = 1000
"""About the width of the bars."""
SHORTEST_PX = 2
"""What is not watched is drawn at least this wide: a minute is less than a pixel of a day."""


def write_plot(
    found: Mapping[str, Sequence[Interval]], start: datetime, end: datetime, path: Path
) -> None:
    """Write a PNG, whole or not at all. Raises OSError."""
    from matplotlib import dates as untyped_dates
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    dates: Any = untyped_dates
    zone = datetime.now().astimezone().tzinfo
    first, last = (float(dates.date2num(time)) for time in (start, end))
    shortest = (last - first) * SHORTEST_PX / BAR_PX
    figure = Figure(figsize=(WIDTH_INCHES, 1.6 + 0.34 * len(found)), layout="constrained")
    axes = figure.add_subplot()
    names = []
    for row, (camera_id, intervals) in enumerate(found.items()):
        names.append(f"{camera_id}  {_watched_share(intervals)}")
        bars: dict[str, list[tuple[float, float]]] = {}
        for each in intervals:
            kind = kind_of(each)
            since, until = (float(dates.date2num(time)) for time in (each.start, each.end))
            if kind not in ("watched", "unknown"):
                until = max(until, since + shortest)
            bars.setdefault(kind, []).append((since, until - since))
        for kind in sorted(bars, key=ORDER.index):
            axes.broken_barh(
                bars[kind], (row - 0.4, 0.8), facecolors=COLOURS[kind], linewidth=0, zorder=2
            )
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set(xlim=(first, last), ylim=(len(names) - 0.5, -0.5))
    locator = dates.AutoDateLocator(tz=zone)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=zone))
    axes.set_title(f"When cameras were watched (times in {zone})")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(
        handles=[Patch(color=colour, label=name) for name, colour in COLOURS.items()],
        loc="outside lower center",
        ncols=len(COLOURS),
        frameon=False,
        fontsize=8,
    )
    content = BytesIO()
    figure.savefig(content, format="png", dpi=DPI)
    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    try:
        unfinished.write_bytes(content.getvalue())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def kind_of(interval: Interval) -> str:
    """What the picture calls an interval's state."""
    if interval.state == "reduced":
        by_choice = interval.reason == "skipped"
        return "at a lower rate, by choice" if by_choice else "at a lower rate"
    names = {"down": "camera down", "worker_down": "worker down", "lost": "events lost"}
    return names.get(interval.state, interval.state)


def _watched_share(intervals: Sequence[Interval]) -> str:
    whole = sum(each.seconds for each in intervals)
    watched = sum(each.seconds for each in intervals if each.state in ("watched", "reduced"))
    share = watched / whole
    return f"{share:.0%}" if share in (0, 1) else f"{min(share * 100, 99.9):.1f} %"
