"""A plain loop: PyAV, torchvision's ssdlite320 and redis-py. What one writes in an afternoon.

    python benchmarks/peers/torchvision_loop.py VIDEO REDIS_URL STREAM

Frame by frame: decode with PyAV's default threading, RGB in full size, the model as torchvision's
documentation calls it (it scales and normalises, and returns boxes in pixels of the frame), and
one XADD of a JSON event. The model is torchvision's own with its default thresholds; see
untrained.py for its weights. Prints start-up, and frames a second from the first event to the last.
"""

import argparse
import json
import time
from pathlib import Path

import av
import redis
import torch
from untrained import torchvision_model

SCORE_THRESHOLD = 0.4


def main() -> None:
    """Run over the video."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser()
    parser.add_argument("video")
    parser.add_argument("redis_url")
    parser.add_argument("stream")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="ssdlite320_mobilenet_v3_large")
    parser.add_argument("--trained", action="store_true", help="download the COCO weights")
    parser.add_argument("--frames", type=int, help="stop after so many")
    options = parser.parse_args()

    client = redis.Redis.from_url(options.redis_url)
    model = torchvision_model(options.model, options.trained).to(options.device)
    camera = Path(options.video).stem
    times = []
    with av.open(options.video) as container, torch.inference_mode():
        for index, frame in enumerate(container.decode(video=0)):
            if index == options.frames:
                break
            image = torch.from_numpy(frame.to_ndarray(format="rgb24")).to(options.device)
            found = model([image.permute(2, 0, 1).float() / 255])[0]
            sure = found["scores"] > SCORE_THRESHOLD
            size = torch.tensor([frame.width, frame.height] * 2, device=options.device)
            detections = [
                {"class_id": label, "score": round(score, 4), "box": [round(x, 5) for x in box]}
                for label, score, box in zip(
                    found["labels"][sure].tolist(),
                    found["scores"][sure].tolist(),
                    (found["boxes"][sure] / size).tolist(),
                    strict=True,
                )
            ]
            event = {
                "id": f"{camera}/{index}",
                "camera_id": camera,
                "frame_index": index,
                "pts": frame.pts,
                "time_base": str(frame.time_base),
                "width": frame.width,
                "height": frame.height,
                "detections": detections,
            }
            client.xadd(options.stream, {"event": json.dumps(event)})
            times.append(time.perf_counter())
    rate = (len(times) - 1) / (times[-1] - times[0])
    print(f"{len(times)} frames, {rate:.1f} frames/s, first event after {times[0] - started:.2f} s")


if __name__ == "__main__":
    main()
