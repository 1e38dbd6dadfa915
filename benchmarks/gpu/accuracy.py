"""Whether the GPU's detections on the sample are the CPU's: COCO AP against the CPU's fp32 ones.

    python benchmarks/gpu/accuracy.py [--device cuda] [--quick]

`ssd-worker replay` looks at samples/walkway.mp4 with a threshold of `SWEPT`, on the CPU and on the
device, in each precision. What the CPU finds in fp32 with a score of at least `SURE` counts as the
truth, and every run is scored against it by supervision's COCO evaluation: AP over IoU 0.50 to 0.95
and AP50, averaged over the classes. The CPU's fp32 run has an AP of 1 by construction, so that
1 - AP is how far a run is from it. The CPU's bf16 run is the measure of what bf16 alone moves.

Exits with 1 if AP of a run on the GPU is more than `MOST` below that of the CPU's bf16 run, or its
AP50 more than `MOST` below 1. Closer to 1 no run on a GPU comes, fp32 neither: cuDNN computes it in
TF32, and frames are scaled there by another filter than swscale's fixed-point one.
"""

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import supervision as sv
from common import HERE, RESULTS, introduce, keep, parser
from processes import WORKER
from supervision.metrics import MeanAveragePrecision

CLIP = HERE.parent / "samples" / "walkway.mp4"
SWEPT, SURE, MOST = 0.05, 0.4, 0.005
RUNS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16")}


def main() -> None:
    """Run every configuration, score it, keep rows, judge."""
    options = parser(__doc__)
    chosen = options.parse_args()
    introduce(chosen.device, "torch", "supervision")
    stride = 10 if chosen.quick else 1
    runs = [("cpu", precision, "none") for precision in RUNS["cpu"]]
    if chosen.device == "cuda":
        runs += [("cuda", precision, "none") for precision in RUNS["cuda"]]
        runs.append(("cuda", "bf16", "auto"))
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor() as pool:
        jobs = {
            run: pool.submit(replay, *run, Path(directory) / f"{'-'.join(run)}.jsonl", stride)
            for run in runs
        }
        found = {run: job.result() for run, job in jobs.items()}
    truth = [image[image.confidence >= SURE] for image in found["cpu", "fp32", "none"]]
    rows = {run: score(images, truth) for run, images in found.items()}
    for run, row in rows.items():
        named = dict(zip(("on", "precision", "hwaccel"), run, strict=True)) | row
        print(named)
        if not chosen.quick:
            keep(RESULTS / "accuracy.csv", named, chosen.device)
    least = rows["cpu", "bf16", "none"]["ap"] - MOST
    too_far = [run for run, row in rows.items() if row["ap"] < least or row["ap50"] < 1 - MOST]
    if too_far:
        sys.exit(f"more than {MOST} away: {too_far}")


def replay(device: str, precision: str, hwaccel: str, path: Path, stride: int) -> list[Any]:
    """The detections of every frame."""
    command = [*WORKER, "replay", str(CLIP), "--output", str(path), "--overwrite", "--restart"]
    command += ["--device", device, "--precision", precision, "--hwaccel", hwaccel]
    command += ["--score-threshold", str(SWEPT), "--stride", str(stride)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    return [detections(e["data"]) for e in events if e["type"] == "ssd.detections.v1"]


def detections(data: dict[str, Any]) -> Any:
    """One event's, with boxes in pixels."""
    found = data["detections"]
    size = np.array([data["width"], data["height"]] * 2, np.float32)
    return sv.Detections(
        xyxy=np.array([d["box"] for d in found], np.float32).reshape(-1, 4) * size,
        confidence=np.array([d["score"] for d in found], np.float32),
        class_id=np.array([d["class_id"] for d in found], int),
    )


def score(images: list[Any], truth: list[Any]) -> dict[str, Any]:
    """AP of detections, image by image, against the true ones."""
    result = MeanAveragePrecision().update(images, truth).compute()
    return {
        "images": len(images),
        "detections": sum(len(image) for image in images),
        "sure": sum(int((image.confidence >= SURE).sum()) for image in images),
        "true": sum(len(image) for image in truth),
        "ap": round(float(result.map50_95), 4),
        "ap50": round(float(result.map50), 4),
    }


if __name__ == "__main__":
    main()
