"""The report as pictures: PNG files for slides and other pages.

Takes the material; writes files. matplotlib is imported when it is needed: it comes with an extra.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from worker.events import Detection
from worker.reports import words
from worker.reports.camera import CameraSum
from worker.reports.material import STATE_NAMES, CameraMaterial, Report
from worker.reports.pictures import heat_map
from worker.sinks.files import complete_or_absent
from worker.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LINES = 8
COLOURS = {
    "watched": "#1a8f5a",
    "skipped": "#9ccfb4",
    "reduced": "#d99000",
    "down": "#c8372d",
    "worker_down": "#4a5056",
    "lost": "#8e44ad",
    "unknown": "#cfd4d8",
}
"""By style, as on the page."""
BOX_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7")
DPI = 110


def write_plots(report: Report, directory: Path) -> Iterator[Path]:
    """Write the plots of each camera, and give their names. Raises SinkError.

    ``ID-counts.png``, ``ID-heatmap.png``, ``ID-coverage.png`` and ``ID-frames.png``, those of them
    that there is something to show in.
    """
    names: set[str] = set()
    for material in report.cameras:
        name = _file_name(material.camera.camera_id, names)
        for kind, draw in (
            ("counts", _draw_counts),
            ("heatmap", _draw_heat),
            ("coverage", _draw_coverage),
            ("frames", _draw_frames),
        ):
            figure = draw(material)
            if figure is None:
                continue
            path = directory / f"{name}-{kind}.png"
            with complete_or_absent(path) as unfinished, warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Glyph .* missing from font")
                figure.savefig(unfinished, format="png", dpi=DPI)
            yield path


def _file_name(camera_id: str, taken: set[str]) -> str:
    """The id as part of a file's name, different from those before."""
    base = name = re.sub(r"[^A-Za-z0-9._-]", "-", camera_id)[:100].lstrip(".") or "camera"
    number = 2
    while name.lower() in taken:
        name = f"{base}-{number}"
        number += 1
    taken.add(name.lower())
    return name


def _draw_counts(material: CameraMaterial) -> "Figure | None":
    from matplotlib.figure import Figure

    camera = material.camera
    labels = camera.by_count()
    if not labels:
        return None
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for label in labels[:MOST_LINES]:
        means = [np.nan if mean is None else mean for mean in camera.means(label.label)]
        axes.stairs(means, _edges(camera), linewidth=1.6, baseline=None, label=_plain(label.label))
    axes.set(ylim=(0, None), ylabel="mean number in an analysed frame")
    more = (
        f", the {MOST_LINES} of {len(labels)} labels with most" if len(labels) > MOST_LINES else ""
    )
    axes.set_title(
        f"{_plain(camera.camera_id)}: detections, each step {words.width_of_bins(camera)}{more}"
    )
    _set_time(camera, axes)
    axes.set_xlabel("time in the recording" if camera.is_replay else "UTC")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    return figure


def _draw_heat(material: CameraMaterial) -> "Figure | None":
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    camera = material.camera
    if not camera.detections:
        return None
    counts = camera.heat.counts()
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(heat_map(counts, material.ground, camera.size))
    axes.set_axis_off()
    axes.set_title(f"{_plain(camera.camera_id)}: where detections were")
    scale = ScalarMappable(PowerNorm(0.5, 0, float(counts.max())), "inferno")
    figure.colorbar(scale, ax=axes, label="detections that covered a point", shrink=0.8)
    return figure


def _draw_coverage(material: CameraMaterial) -> "Figure | None":
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    camera = material.camera
    seconds = material.seconds_by_style()
    if not seconds:
        return None
    figure = Figure(figsize=(10, 2.2), layout="constrained")
    axes = figure.add_subplot()
    columns = np.array([camera.timeline.values(("state", style)) for style in STATE_NAMES])
    shares = columns / np.maximum(columns.sum(0), 1e-9)
    bottom = np.zeros(shares.shape[1])
    for style, share in zip(STATE_NAMES, shares, strict=True):
        axes.stairs(
            bottom + share, _edges(camera), baseline=bottom, fill=True, color=COLOURS[style]
        )
        bottom = bottom + share
    total = sum(seconds.values())
    axes.legend(
        handles=[
            Patch(color=COLOURS[style], label=f"{STATE_NAMES[style]} {100 * part / total:.1f} %")
            for style, part in seconds.items()
        ],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.35),
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    axes.set(ylim=(0, 1), yticks=[])
    axes.set_title(f"{_plain(camera.camera_id)}: when it was watched (UTC)")
    _set_time(camera, axes)
    return figure


def _draw_frames(material: CameraMaterial) -> "Figure | None":
    from matplotlib.figure import Figure

    if not material.frames:
        return None
    columns = min(len(material.frames), 2)
    rows = -(-len(material.frames) // columns)
    figure = Figure(figsize=(6 * columns, 4.4 * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.set_axis_off()
    order = [label.label for label in material.camera.by_count()]
    for axes, frame in zip(grid, material.frames, strict=False):
        axes.imshow(frame.picture)
        axes.set_title(_plain(words.place(frame)), fontsize=9)
        if frame.event is not None:
            _draw_boxes(axes, frame.event.data.detections, frame.picture.shape[:2], order)
    return figure


def _draw_boxes(
    axes: "Axes", detections: Sequence[Detection], size: tuple[int, int], order: Sequence[str]
) -> None:
    from matplotlib.patches import Rectangle

    height, width = size
    for each in detections:
        x1, y1, x2, y2 = each.box
        place = order.index(each.label) if each.label in order else 0
        colour = BOX_COLOURS[place % len(BOX_COLOURS)]
        corner, sides = (x1 * width, y1 * height), ((x2 - x1) * width, (y2 - y1) * height)
        axes.add_patch(Rectangle(corner, *sides, fill=False, edgecolor=colour, linewidth=1.5))
        axes.text(
            *corner,
            _plain(f"{each.label} {each.score:.2f}"),
            color="white",
            fontsize=7,
            backgroundcolor=(0, 0, 0, 0.5),
            clip_on=True,
        )


def _edges(camera: CameraSum) -> list[float]:
    timeline = camera.timeline
    return [timeline.start + number * timeline.width for number in range(timeline.bins + 1)]


def _set_time(camera: CameraSum, axes: "Axes") -> None:
    """Name a few points of time: matplotlib's own dates know neither recordings nor pictures."""
    timeline = camera.timeline
    places = np.linspace(timeline.start, timeline.end, 6)
    texts = [words.moment(camera, at).replace(" ", "\n", 1) for at in places]
    axes.set_xlim(timeline.start, timeline.end)
    axes.set_xticks(places, texts, fontsize=8)


def _plain(text: str) -> str:
    """Text as it is: matplotlib takes what stands between dollars as a formula."""
    shown = printable(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown  # which legends leave out
