"""What scaling changes in pictures and detections; and one class per default box, or several.

Takes videos, and gives means over their frames; measures no times. A frame reaches the network as
an RGB image that the detector scales, or scaled by its source, with a filter or without. Frames of
1920x1080 are put together from those of the video in their own resolution: an enlarged frame has
no details that a filter could remove.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import av
import common
import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

from ssd_core import MODELS, Detections, Detector
from ssd_core.ops import decode_nms
from ssd_core.preprocess import preprocess
from worker.sources.conversion import PictureConverter

MODEL = MODELS["ssd_mobilenet_v2_oid"]
CPU = torch.device("cpu")


def frames(video: Path, every: int, tiled: bool) -> Iterator[av.VideoFrame]:
    """Some frames of a video, as they are or repeated to 1920x1080."""
    with av.open(str(video)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index % every == 0:
                yield full_hd(frame) if tiled else frame


def full_hd(frame: av.VideoFrame) -> av.VideoFrame:
    """A frame repeated side by side and below itself, cut off at 1920x1080."""
    height, width = frame.height, frame.width
    whole = frame.reformat(format="yuv420p").to_ndarray().ravel()
    luma, *chroma = np.split(whole, [height * width, height * width * 5 // 4])
    planes = [repeated(luma.reshape(height, width), (1080, 1920))]
    planes += [repeated(plane.reshape(height // 2, width // 2), (540, 960)) for plane in chroma]
    made = av.VideoFrame.from_ndarray(np.concatenate(planes).reshape(1620, 1920), format="yuv420p")
    made.colorspace, made.color_range = frame.colorspace, frame.color_range
    return made


def repeated(plane: Any, size: tuple[int, int]) -> Any:
    """A plane tiled and cut off, flattened."""
    times = [-(-wanted // side) for wanted, side in zip(size, plane.shape, strict=True)]
    return np.tile(plane, times)[: size[0], : size[1]].ravel()


def network_inputs(frame: av.VideoFrame) -> dict[str, Tensor]:
    """(1, 3, S, S) in 0..255 for each way to the network."""
    inputs = {}
    image = PictureConverter(None).convert(frame)
    for antialias in (True, False):
        name = "filtered" if antialias else "plain"
        spec = replace(MODEL, mean=(0.0,) * 3, std=(1.0,) * 3, antialias=antialias)
        scaled = PictureConverter(spec.image_size, antialias).convert(frame)
        inputs[f"image, {name}"] = preprocess([image], spec, CPU, torch.float32)
        inputs[f"frame, {name}"] = preprocess([scaled], spec, CPU, torch.float32)
    return inputs


def agreeing(one: Detections, other: Detections) -> int:
    """Detections that have one of their label with an IoU above 0.5 among the others."""
    same_label = one.labels[:, None] == other.labels
    overlaps = (box_iou(one.boxes_normalised, other.boxes_normalised) > 0.5) & same_label
    return int(overlaps.any(dim=1).sum()) if len(other) else 0


def compare(detector: Detector, video: Path, every: int, tiled: bool) -> list[dict[str, Any]]:
    """Every two ways: how far pictures are apart, and how many detections agree."""
    totals: dict[tuple[str, str], list[float]] = {}
    for frame in frames(video, every, tiled):
        inputs = network_inputs(frame)
        images = [x[0].permute(1, 2, 0).round().byte() for x in inputs.values()]
        found = dict(zip(inputs, detector.detect(images), strict=True))
        for one, other in product(inputs, inputs):
            difference = (inputs[one] - inputs[other]).abs().mean().item()
            row = [1, difference, agreeing(found[one], found[other]), len(found[one])]
            before = totals.get((one, other), [0.0] * 4)
            totals[one, other] = [a + b for a, b in zip(before, row, strict=True)]
    return [
        {
            "video": video.name,
            "size": "1920x1080" if tiled else "as it is",
            "ways": f"{one} / {other}",
            "mean_difference": round(difference / count, 3),
            "agree": int(agree),
            "of": int(detections),
        }
        for (one, other), (count, difference, agree, detections) in totals.items()
        if one < other
    ]


def classes_of_a_box(detector: Detector, video: Path, every: int) -> dict[str, Any]:
    """How many detections there are by each rule."""
    counts = dict.fromkeys(("several classes", "best class", "best class, NMS over all"), 0)
    settings, default_boxes = MODEL.decode_settings(), MODEL.default_boxes()
    converter = PictureConverter(MODEL.image_size)
    for frame in frames(video, every, tiled=False):
        offsets, logits = detector.model(detector.preprocess([converter.convert(frame)]))
        best = logits[..., 1:].argmax(dim=-1, keepdim=True) + 1
        others = torch.full_like(logits, -torch.inf).scatter(-1, best, logits.gather(-1, best))
        *_, count = decode_nms(offsets, logits, default_boxes, settings)
        boxes, scores, _, best_count = decode_nms(offsets, others, default_boxes, settings)
        kept = nms(boxes[0, :best_count], scores[0, :best_count], MODEL.iou_threshold)
        for rule, found in zip(counts, (int(count), int(best_count), len(kept)), strict=True):
            counts[rule] += found
    return {"video": video.name, **counts}


def main() -> None:
    """Measure the videos named, or the one of the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("videos", nargs="*", type=Path, default=[common.VIDEO])
    parser.add_argument("--every", type=int, default=10, help="take one frame of this many")
    options = parser.parse_args()
    common.introduce("cpu", "torch", "av")
    detector = Detector.load(MODEL, device="cpu", precision="fp32")
    rows = []
    for video in options.videos:
        for tiled in (False, True):
            rows += compare(detector, video, options.every, tiled)
        rows.append(classes_of_a_box(detector, video, options.every))
    for row in rows:
        print(row)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
