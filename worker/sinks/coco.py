"""COCO JSON output: the detections in COCO's data format, to open in labelling tools.

One image per analysed frame, one annotation per detection with its score, categories by the
model's class ids. https://cocodataset.org/#format-data

Parts that say nothing are there too: CVAT refuses annotations without ``segmentation``, and some
versions of it files without ``info`` and ``licenses``.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from worker.events import Detection, DetectionsData, DetectionsEvent, Event
from worker.sinks.files import complete_or_absent, nothing

INFO = {"description": "detections of ssd-worker"}


def write_coco(
    read_events: Callable[[], Iterable[Event]],
    target: Path,
    labels: Sequence[str],
    on_complete: Callable[[Path], None] = nothing,
    *,
    reported: Collection[str] | None = None,
) -> None:
    """Write the frames among the events to ``target``, which appears when complete.

    ``read_events`` is called twice, for the images and for the annotations: a day of video does
    not fit into memory. ``labels`` are the model's, by class id; class 0, the background, is not a
    category, nor is a label that is not ``reported`` (None: all are). ``on_complete``: see
    ``complete_or_absent``. Raises SinkError if the file cannot be written.
    """
    categories = [
        {"id": i, "name": name}
        for i, name in enumerate(labels)
        if i > 0 and (reported is None or name in reported)
    ]
    with complete_or_absent(target, on_complete) as path, path.open("w", encoding="utf-8") as file:
        file.write(f'{{"info": {json.dumps(INFO)}, "licenses": [], "images": ')
        _write_list(file, _images(read_events()))
        file.write(', "annotations": ')
        _write_list(file, _annotations(read_events()))
        file.write(f', "categories": {json.dumps(categories)}}}\n')


def _write_list(file: TextIO, items: Iterable[dict[str, Any]]) -> None:
    separator = "["
    for item in items:
        file.write(f"{separator}\n{json.dumps(item)}")
        separator = ","
    file.write("]" if separator == "," else "[]")


def _frames(events: Iterable[Event]) -> Iterator[tuple[int, DetectionsData]]:
    frames = (event.data for event in events if isinstance(event, DetectionsEvent))
    return enumerate(frames, start=1)


def _images(events: Iterable[Event]) -> Iterator[dict[str, Any]]:
    for image_id, data in _frames(events):
        yield {
            "id": image_id,
            "file_name": data.file_name or f"{data.camera_id}-{data.frame_index:06d}.jpg",
            "width": data.width,
            "height": data.height,
            "frame_index": data.frame_index,
            "pts_seconds": data.pts_seconds,
        }


def _annotations(events: Iterable[Event]) -> Iterator[dict[str, Any]]:
    annotation_id = 0
    for image_id, data in _frames(events):
        for detection in data.detections:
            annotation_id += 1
            x1, y1, x2, y2 = _pixels(detection, data)
            width, height = round(x2 - x1, 2), round(y2 - y1, 2)
            yield {
                "id": annotation_id,
                "image_id": image_id,
                "category_id": detection.class_id,
                "bbox": [x1, y1, width, height],
                "area": round(width * height, 2),
                "segmentation": [],
                "iscrowd": 0,
                "score": detection.score,
            }


def _pixels(detection: Detection, data: DetectionsData) -> tuple[float, ...]:
    sizes = (data.width, data.height) * 2
    return tuple(round(e * s, 2) for e, s in zip(detection.box, sizes, strict=True))
