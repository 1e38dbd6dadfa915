"""The end-to-end frame rate by batch size, and by number of cameras.

    python benchmarks/scaling.py [--device cuda] [--quick]

- batch: `ssd-worker replay --max-batch N` over the first frames of vtest.avi into Redis; frames per
  second from the first event to the last, as in end_to_end.py
- cameras: `ssd-worker run` with N cameras at 1080p25, as in live.py; frames per second analysed and
  published for all of them together, over some seconds in which the worker may drop frames. The
  dashed line is the rate that the cameras send.

Rows go to results/scaling.csv, and the plot of this run to results/scaling-<device>.png.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import live
from clips import HD_RATE, short_clip
from common import RESULTS, VIDEO, finish, hardware, introduce, keep, parser
from processes import WORKER, Server, published, run_to_end, server

BATCHES = {"cpu": [1, 2, 4, 8, 16, 32], "cuda": [1, 4, 8, 16, 32]}
CAMERAS = {"cpu": [1, 2, 4, 8], "cuda": [1, 4, 8, 16]}
CPU_FRAMES = 300


def main() -> None:
    """Measure both, save the rows and the plot."""
    options = parser(__doc__)
    options.add_argument("--batches", type=int, nargs="+")
    options.add_argument("--counts", type=int, nargs="+", help="numbers of cameras")
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--seconds-per-step", type=float, default=4.0)
    options.add_argument("--cameras", choices=("rtsp", "file"), default="rtsp")
    chosen = options.parse_args()
    chosen.batches = chosen.batches or BATCHES[chosen.device]
    chosen.counts = chosen.counts or CAMERAS[chosen.device]
    if chosen.quick:
        chosen.batches, chosen.counts, chosen.seconds_per_step = [1, 8], [1, 2], 2.0
    introduce(chosen.device, "torch", "av", "redis")
    rows = []
    for row in by_batch(chosen) + by_cameras(chosen):
        rows.append(row)
        if not chosen.quick:
            keep(RESULTS / "scaling.csv", row, chosen.device)
    if find_spec("matplotlib") is None:
        print("no plot without matplotlib: pip install -e '.[bench]'")
    elif not chosen.quick:
        plot(rows, chosen.device, RESULTS / f"scaling-{chosen.device}.png")
    finish("scaling", chosen.device, cases=rows)


def by_batch(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Replay rates; each round runs all batch sizes in turn."""
    clip = short_clip(60 if chosen.quick else CPU_FRAMES) if chosen.device == "cpu" else VIDEO
    rates: dict[int, list[float]] = {batch: [] for batch in chosen.batches}
    with server() as redis_server:
        for _ in range(chosen.rounds):
            for batch in chosen.batches:
                rates[batch].append(replay_rate(redis_server, clip, batch, chosen.device))
    rows = []
    for batch, of_batch in rates.items():
        rate = round(median(of_batch), 1)
        rows.append({"device": chosen.device, "against": "batch", "n": batch, "rate": rate})
        print(rows[-1], flush=True)
    return rows


def replay_rate(redis_server: Server, clip: Path, batch: int, device: str) -> float:
    """Frames per second of one replay."""
    redis_server.client.flushall()
    stream = f"ssd:{{{clip.stem}}}:replay"
    command = [*WORKER, "replay", str(clip), "--max-batch", str(batch), "--device", device]
    run_to_end(command, redis_server, stream)
    return published(redis_server.client, stream).frames_per_second


def by_cameras(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Live rates."""
    rows = []
    for count in chosen.counts:
        step = live.watch(count, chosen)
        row = {"device": chosen.device, "against": "cameras", "n": count}
        row["rate"] = step["frames_per_second"]
        row |= {name: step[name] for name in ("p95_ms", "dropped_share", "cpu_percent")}
        print(row, flush=True)
        rows.append(row)
    return rows


def plot(rows: list[dict[str, Any]], device: str, path: Path) -> None:
    """Plot both curves, in two panels."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    figure.suptitle(f"ssd-worker on {hardware(device)}", fontsize=10)
    for panel, against, label in zip(
        panels, ("batch", "cameras"), ("frames per batch (replay)", "1080p25 cameras"), strict=True
    ):
        points = [(row["n"], row["rate"]) for row in rows if row["against"] == against]
        numbers, rates = zip(*points, strict=True)
        panel.plot(numbers, rates, marker="o")
        if against == "cameras":
            panel.plot(numbers, [n * HD_RATE for n in numbers], linestyle="--", color="grey")
        panel.set_xscale("log", base=2)
        panel.set_xticks(numbers, [str(n) for n in numbers])
        panel.set_ylim(0, max(rates) * 1.15)
        panel.set_xlabel(label)
        panel.set_ylabel("frames per second")
        panel.grid(alpha=0.3)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
