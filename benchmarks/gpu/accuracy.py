"""Whether the GPU's detections on the sample are the CPU's, by COCO AP.

    PYTHONPATH=benchmarks python benchmarks/gpu/accuracy.py [--device cuda] [--quick]

The truth is what `ssd-worker replay` finds on the CPU in fp32 in samples/walkway.mp4 with a score
of at least `SURE`; every run, with a threshold of `SWEPT`, is scored against it by supervision's
COCO evaluation: AP over IoU 0.50 to 0.95 and AP50, averaged over the classes. A run on the GPU
fails if its AP or AP50 is more than `MOST` below that of the CPU's bf16 run, which is what rounding
to bf16 alone takes away.

The CPU's fp32 run has an AP of 1 by construction. No run on a GPU gets there: cuDNN computes fp32
in TF32, and frames are scaled by another filter than swscale's fixed-point one.
"""

import json
import os
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
RUNS = {
    "cpu": [("cpu", "fp32", "none"), ("cpu", "bf16", "none")],
    "cuda": [("cuda", "bf16", "none"), ("cuda", "bf16", "auto"), ("cuda", "fp32", "none")],
}
"""On, precision, hwaccel; in the order in which they start, two at a time."""
CPU_THREADS = 4
"""For each run: the machine may have other work."""


def main() -> None:
    """Run every configuration, score it, keep rows, judge."""
    options = parser(__doc__)
    chosen = options.parse_args()
    introduce(chosen.device, "torch", "supervision")
    stride = 10 if chosen.quick else 1
    runs = RUNS["cpu"] + (RUNS["cuda"] if chosen.device == "cuda" else [])
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(2) as pool:
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
    measure = rows["cpu", "bf16", "none"]
    too_far = [
        run
        for run, row in rows.items()
        if any(row[name] < measure[name] - MOST for name in ("ap", "ap50"))
    ]
    if too_far:
        sys.exit(f"more than {MOST} below the CPU's bf16 run: {too_far}")


def replay(device: str, precision: str, hwaccel: str, path: Path, stride: int) -> list[Any]:
    """The detections of every frame."""
    command = [*WORKER, "replay", str(CLIP), "--output", str(path), "--overwrite", "--restart"]
    command += ["--device", device, "--precision", precision, "--hwaccel", hwaccel]
    command += ["--score-threshold", str(SWEPT), "--stride", str(stride)]
    environment = os.environ | {"OMP_NUM_THREADS": str(CPU_THREADS)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
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
