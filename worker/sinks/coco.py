"""COCO JSON output: the detections in COCO's data format, to open in labelling tools.

One image per analysed frame, one annotation per detection with its score, categories by the
model's class ids. https://cocodataset.org/#format-data
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from worker.events import DetectionsEvent, Event
from worker.sinks.files import complete_or_absent


def write_coco(events: Iterable[Event], target: Path, labels: Sequence[str]) -> None:
    """Write the frames among the events to ``target``, which appears when complete.

    ``labels`` are the model's, by class id; class 0 is the background and no category.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for event in events:
        if not isinstance(event, DetectionsEvent):
            continue
        data = event.data
        image_id = len(images) + 1
        images.append(
            {
                "id": image_id,
                "file_name": f"{data.camera_id}-{data.frame_index:06d}.jpg",
                "width": data.width,
                "height": data.height,
                "frame_index": data.frame_index,
                "pts_seconds": data.pts_seconds,
            }
        )
        for detection in data.detections:
            x1, y1, x2, y2 = (
                round(edge * size, 2)
                for edge, size in zip(detection.box, (data.width, data.height) * 2, strict=True)
            )
            width, height = round(x2 - x1, 2), round(y2 - y1, 2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": detection.class_id,
                    "bbox": [x1, y1, width, height],
                    "area": round(width * height, 2),
                    "iscrowd": 0,
                    "score": detection.score,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(labels) if i > 0]
    content = {"images": images, "annotations": annotations, "categories": categories}
    with complete_or_absent(target) as path:
        path.write_text(json.dumps(content), encoding="utf-8")
