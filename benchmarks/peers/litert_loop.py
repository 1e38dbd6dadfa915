"""A plain loop: PyAV, LiteRT, NMS in NumPy and redis-py. What one writes in an afternoon.

    python benchmarks/peers/litert_loop.py VIDEO REDIS_URL STREAM --tflite MODEL.tflite

Frame by frame: decode with PyAV's default threading, scale in swscale with one scaler for all
frames (0.6 ms; `to_ndarray(width=..., height=...)` sets one up per frame: 1.6 ms), LiteRT with
XNNPACK on every core, sigmoid, decoding of the default boxes and greedy NMS per class in NumPy with
the thresholds of this project's model, and one XADD of a JSON event. Prints start-up, and frames a
second from the first event to the last. Imports no torch.
"""

import argparse
import json
import os
import time
from pathlib import Path

import av
import numpy as np
import redis
from ai_edge_litert.interpreter import Interpreter
from av.video.reformatter import Interpolation, VideoReformatter

SIZE = 300
SCORE_THRESHOLD, IOU_THRESHOLD = 0.4, 0.5


def main() -> None:
    """Run over the video."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser()
    parser.add_argument("video")
    parser.add_argument("redis_url")
    parser.add_argument("stream")
    parser.add_argument("--tflite", required=True)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--frames", type=int, help="stop after so many")
    options = parser.parse_args()

    client = redis.Redis.from_url(options.redis_url)
    interpreter = Interpreter(options.tflite, num_threads=options.threads)
    interpreter.allocate_tensors()
    image_input = interpreter.get_input_details()[0]["index"]
    outputs = {d["shape"][-1] == 4: d["index"] for d in interpreter.get_output_details()}
    default_boxes = make_default_boxes()
    scaler = VideoReformatter()
    camera = Path(options.video).stem
    times = []
    with av.open(options.video) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index == options.frames:
                break
            image = scaler.reformat(
                frame, SIZE, SIZE, "rgb24", interpolation=Interpolation.BILINEAR
            ).to_ndarray()
            interpreter.set_tensor(image_input, image[None].astype(np.float32) / 127.5 - 1)
            interpreter.invoke()
            offsets = interpreter.get_tensor(outputs[True])[0]
            logits = interpreter.get_tensor(outputs[False])[0]
            event = {
                "id": f"{camera}/{index}",
                "camera_id": camera,
                "frame_index": index,
                "pts": frame.pts,
                "time_base": str(frame.time_base),
                "width": frame.width,
                "height": frame.height,
                "detections": detect(offsets, logits, default_boxes),
            }
            client.xadd(options.stream, {"event": json.dumps(event)})
            times.append(time.perf_counter())
    rate = (len(times) - 1) / (times[-1] - times[0])
    print(f"{len(times)} frames, {rate:.1f} frames/s, first event after {times[0] - started:.2f} s")


def detect(offsets: np.ndarray, logits: np.ndarray, default_boxes: np.ndarray) -> list[dict]:
    """Detections of one image from (A, 4) offsets in y, x, h, w order and (A, C) logits."""
    scores = 1 / (1 + np.exp(-logits[:, 1:]))
    box_index, class_index = np.nonzero(scores > SCORE_THRESHOLD)
    found = []
    for label in np.unique(class_index):
        rows = box_index[class_index == label]
        boxes = decode(offsets[rows], default_boxes[rows])
        label_scores = scores[rows, label]
        for kept in nms(boxes, label_scores):
            found.append((float(label_scores[kept]), int(label) + 1, boxes[kept].tolist()))
    found.sort(reverse=True)
    return [
        {"class_id": label, "score": round(score, 4), "box": [round(edge, 5) for edge in box]}
        for score, label, box in found
    ]


def decode(offsets: np.ndarray, default_boxes: np.ndarray) -> np.ndarray:
    """(N, 4) xyxy in [0, 1] from offsets and (N, 4) cxcywh."""
    cx, cy, w, h = default_boxes.T
    y, x = offsets[:, 0] / 10 * h + cy, offsets[:, 1] / 10 * w + cx
    half_h, half_w = np.exp(offsets[:, 2] / 5) * h / 2, np.exp(offsets[:, 3] / 5) * w / 2
    return np.clip(np.stack((x - half_w, y - half_h, x + half_w, y + half_h), axis=1), 0, 1)


def nms(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    """Indices that greedy NMS keeps."""
    x1, y1, x2, y2 = boxes.T
    area = (x2 - x1) * (y2 - y1)
    order = np.argsort(-scores)
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        width = np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest])
        height = np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        order = rest[shared / (area[best] + area[rest] - shared) <= IOU_THRESHOLD]
    return kept


def make_default_boxes() -> np.ndarray:
    """(1917, 4) cxcywh in [0, 1], as TensorFlow's SSD MobileNet has them."""
    scales = [0.2 + 0.15 * index for index in range(6)] + [1.0]
    boxes = []
    for index, cells in enumerate((19, 10, 5, 3, 2, 1)):
        scale, following = scales[index : index + 2]
        if index == 0:
            sizes = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
        else:
            sizes = [(scale, ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 0.3333)]
            sizes.append((np.sqrt(scale * following), 1.0))
        for y in range(cells):
            for x in range(cells):
                for size, ratio in sizes:
                    width, height = size * np.sqrt(ratio), size / np.sqrt(ratio)
                    boxes.append(((x + 0.5) / cells, (y + 0.5) / cells, width, height))
    return np.array(boxes, np.float32)


if __name__ == "__main__":
    main()
