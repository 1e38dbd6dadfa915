"""The report as one HTML page that needs nothing else: no script, no file, no network.

Takes the material; gives text. Everything from events goes through the template's escaping: ids
and labels are shown as text, whatever is in them. The policy in the page itself allows nothing but
its own style sheet and pictures.
"""

import base64
import hashlib
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from worker.events import DetectionsEvent
from worker.reports import words
from worker.reports.camera import FRAMES, CameraSum, LabelSum
from worker.reports.charts import area_path, state_rects, unseen_runs
from worker.reports.heat import HeatGrid
from worker.reports.material import STATE_NAMES, CameraMaterial, Report
from worker.reports.pictures import (
    Picture,
    ShownFrame,
    encode_jpeg,
    fitted,
    heat_map,
    heat_scale,
)
from worker.text import printable

MOST_CHARTS = 8
MOST_HEAT_MAPS = 4
"""Of single labels."""
SMALL_PX = 480
"""Width of those."""
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7")
"""Okabe and Ito 2008: told apart also by those who see few colours."""
TEXT_PX = 15


def render(report: Report) -> str:
    """The page as HTML."""
    resources = files("worker.reports")
    css = (resources / "report.css").read_text(encoding="utf-8")
    source = (resources / "report.html.jinja").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, finalize=_shown
    )
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    return environment.from_string(source).render(
        title=report.title,
        origin=report.origin,
        made=report.made.strftime("%Y-%m-%d %H:%M UTC"),
        version=version("ssd-worker"),
        notes=report.notes,
        cameras=[_camera(material) for material in report.cameras],
        scale_uri=_data_uri(heat_scale()),
        css=Markup(css),
        css_digest=digest,
    )


def _shown(value: Any) -> Any:
    """Text of events without control characters; what is markup by our own hand as it is."""
    return printable(value) if type(value) is str else value


def _camera(material: CameraMaterial) -> dict[str, Any]:
    camera = material.camera
    frames = camera.timeline.values(FRAMES)
    labels = camera.by_count()
    return {
        "kind": "Recording" if camera.is_replay else "Camera",
        "name": camera.camera_id,
        "period": _period(material),
        "notes": material.notes,
        "tiles": list(_tiles(camera)),
        "frames": camera.frames_with_event,
        "bins": max(camera.timeline.bins, 1),
        "bin_width": words.width_of_bins(camera),
        "unseen": unseen_runs(frames),
        "has_unseen": any(count <= 0 for count in frames),
        "is_live": not camera.is_replay,
        "axis": _axis(camera),
        "charts": [_chart(camera, label) for label in labels[:MOST_CHARTS]],
        "labels": [_row(camera, label) for label in labels],
        "heat": list(_heat(material)),
        "heat_ground": material.ground_from,
        "coverage": _coverage(material),
        "coverage_lines": list(_coverage_lines(camera)),
        "examples": [_example(camera, frame) for frame in material.frames],
        "no_examples": material.no_examples,
    }


def _period(material: CameraMaterial) -> str:
    camera = material.camera
    if material.is_empty:
        return "No frame with a time."
    start, end = camera.timeline.start, camera.timeline.end
    if material.period is not None:
        first, last = (words.date(time.timestamp()) for time in material.period)
        span = f"{first} to {last} UTC"
    elif camera.counts_frames:
        span = "Pictures without times, in order"
    else:
        span = f"{words.position(start)} to {words.position(end)} of the recording"
    models = ", ".join(camera.models)
    return f"{span}. Model: {models}." if models else f"{span}."


def _tiles(camera: CameraSum) -> Iterator[tuple[str, str]]:
    about = "" if camera.is_replay else "≈ "
    yield "frames analysed", f"{about}{camera.frames:,.0f}"
    yield "detections", f"{camera.detections:,}"
    mean = camera.detections / camera.frames if camera.frames else 0.0
    yield "mean in a frame", words.number(mean)
    yield "labels", f"{len(camera.labels):,}"
    yield "dropped frames", f"{camera.dropped:,}"
    yield "skipped frames", f"{camera.skipped:,}"


def _axis(camera: CameraSum) -> list[str]:
    timeline = camera.timeline
    if not timeline.bins:
        return []
    middle = (timeline.start + timeline.end) / 2
    return [words.moment(camera, at) for at in (timeline.start, middle, timeline.end)]


def _chart(camera: CameraSum, label: LabelSum) -> dict[str, str]:
    means = camera.means(label.label)
    known = [mean for mean in means if mean is not None]
    most = max(known, default=0.0)
    at = camera.timeline.start + means.index(most) * camera.timeline.width if known else 0.0
    mean = label.detections / camera.frames
    return {
        "label": label.label,
        "path": area_path(means, most or 1.0),
        "most": words.number(most),
        "description": f"{label.label}: mean {words.number(mean)} in a frame, most "
        f"{words.number(most)} at {words.moment(camera, at)}",
    }


def _row(camera: CameraSum, label: LabelSum) -> dict[str, Any]:
    return {
        "label": label.label,
        "cells": [
            f"{label.detections:,}",
            words.number(label.detections / camera.frames),
            f"{label.frames:,}",
            f"{label.most:,}",
            f"{label.scores / label.detections:.2f}",
            words.moment(camera, label.first, exact=True),
            words.moment(camera, label.last, exact=True),
        ],
    }


def _heat(material: CameraMaterial) -> Iterator[dict[str, Any]]:
    """The map of all detections, and those of the labels with most, unless there is only one."""
    camera = material.camera
    if not camera.detections:
        return
    yield _heat_picture(camera, "all labels", camera.heat, material.ground)
    labels = [each.label for each in camera.by_count() if each.label in camera.heat_of]
    ground = None if material.ground is None else fitted(material.ground, SMALL_PX)
    for label in labels[:MOST_HEAT_MAPS] if len(labels) > 1 else ():
        yield _heat_picture(camera, label, camera.heat_of[label], ground)


def _heat_picture(
    camera: CameraSum, label: str, grid: HeatGrid, ground: Picture | None
) -> dict[str, Any]:
    counts = grid.counts()
    picture = heat_map(counts, ground, camera.size)
    row, column = divmod(int(counts.argmax()), counts.shape[1])
    across = ("left", "centre", "right")[column * 3 // counts.shape[1]]
    down = ("top", "middle", "bottom")[row * 3 // counts.shape[0]]
    most = f"{counts.max():,}"
    return {
        "label": label,
        "uri": _data_uri(picture),
        "height": picture.shape[0],
        "width": picture.shape[1],
        "most": most,
        "quarter": words.number(float(counts.max()) / 4),
        "description": f"Heat map of {label}: most detections, {most}, at the {down} {across}",
    }


def _coverage(material: CameraMaterial) -> dict[str, Any] | None:
    by_style = material.seconds_by_style()
    total = sum(by_style.values())
    if not total:
        return None
    states = [
        {
            "style": style,
            "name": STATE_NAMES[style],
            "time": words.duration(seconds),
            "share": f"{100 * seconds / total:.1f} %",
        }
        for style, seconds in by_style.items()
    ]
    gaps, more = material.gaps()
    return {
        "states": states,
        "rects": state_rects(material),
        "description": ", ".join(f"{each['name']} {each['share']}" for each in states),
        "gaps": [
            {
                "start": words.date(gap.start.timestamp()),
                "time": words.duration(gap.seconds),
                "state": gap.state.replace("_", " "),
                "reason": gap.reason,
            }
            for gap in gaps
        ],
        "more": more,
    }


def _coverage_lines(camera: CameraSum) -> Iterator[str]:
    """What is known of a recording: a replay has frames where a live camera has times."""
    if not camera.is_replay:
        return
    analysed = f"{camera.frames_with_event:,} frames were analysed"
    if camera.ended is None:
        yield (
            f"{analysed}. The end of the recording is not among the events: its replay was not "
            "finished, or the events were cut."
        )
        return
    reason, detail = camera.ended
    rest = [f"{camera.skipped:,} skipped by choice", f"{camera.dropped:,} dropped"]
    yield f"{analysed} of {camera.decoded:,} in the recording; {', '.join(rest)}."
    if reason == "end_of_file":
        yield "It was read to its end."
    else:
        yield f"It did not end as it should: {': '.join(filter(None, (reason, detail)))}."


def _example(camera: CameraSum, frame: ShownFrame) -> dict[str, Any]:
    height, width = frame.picture.shape[:2]
    caption = words.caption(frame)
    return {
        "uri": _data_uri(frame.picture),
        "width": width,
        "height": height,
        "boxes": list(_boxes(camera, frame.event, width, height)) if frame.event else [],
        "caption": caption,
        "description": caption,
    }


def _boxes(
    camera: CameraSum, event: DetectionsEvent, width: int, height: int
) -> Iterator[dict[str, Any]]:
    order = [each.label for each in camera.by_count()]
    for each in reversed(event.data.detections):  # the best on top
        x1, y1, x2, y2 = (min(max(side, 0.0), 1.0) for side in each.box)
        left, top = x1 * width, y1 * height
        place = order.index(each.label) if each.label in order else len(COLOURS)
        yield {
            "x": round(left, 1),
            "y": round(top, 1),
            "width": round(max(x2 - x1, 0.0) * width, 1),
            "height": round(max(y2 - y1, 0.0) * height, 1),
            "colour": COLOURS[place % len(COLOURS)],
            "name": f"{each.label} {each.score:.2f}",
            "text_x": round(left + 2, 1),
            "text_y": round(top - 4 if top > TEXT_PX + 4 else top + TEXT_PX, 1),
        }


def _data_uri(picture: Picture) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(picture)).decode()
