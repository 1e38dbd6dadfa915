"""The drawings of the page: numbers in, coordinates out."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from worker.reports.material import STATE_NAMES, CameraMaterial
from worker.reports.timeline import Timeline

HEIGHT = 100
"""Of every chart, in its own units; one bin is one unit wide."""


def area_path(values: Sequence[float | None], top: float) -> str:
    """An SVG path of steps under ``values``, up to ``top``; interrupted where there is none."""
    parts = []
    place = 0
    for is_known, group in groupby(values, key=lambda value: value is not None):
        run = list(group)
        if is_known:
            heights = [_rounded(HEIGHT * (1 - (value or 0) / top)) for value in run]
            steps = "".join(f"V{height}h1" for height in heights)
            parts.append(f"M{place} {HEIGHT}{steps}V{HEIGHT}z")
        place += len(run)
    return "".join(parts)


def unseen_runs(frames: Sequence[float]) -> list[tuple[int, int]]:
    """Where no frame was analysed: the first bin and how many."""
    runs = []
    place = 0
    for is_unseen, group in groupby(frames, key=lambda count: count <= 0):
        length = len(list(group))
        if is_unseen:
            runs.append((place, length))
        place += length
    return runs


def state_rects(material: CameraMaterial) -> list[dict[str, Any]]:
    """The bar of a camera's states: each bin has them stacked, as high as their share of it."""
    timeline = material.camera.timeline
    columns = _shares(timeline)
    rects = []
    place = 0
    for shares, group in groupby(columns):
        width = len(list(group))
        y = 0.0
        for style, share in shares:
            height = HEIGHT * share
            rects.append(
                {
                    "style": style,
                    "x": place,
                    "y": _rounded(y),
                    "width": width,
                    "height": _rounded(height),
                }
            )
            y += height
        place += width
    return rects


def _shares(timeline: Timeline) -> list[tuple[tuple[str, float], ...]]:
    """For each bin the states in it, and their shares of the time that is known."""
    by_style = {style: timeline.values(("state", style)) for style in STATE_NAMES}
    columns = []
    for number in range(timeline.bins):
        seconds = {style: values[number] for style, values in by_style.items() if values[number]}
        total = sum(seconds.values())
        columns.append(tuple((style, round(part / total, 3)) for style, part in seconds.items()))
    return columns


def _rounded(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
