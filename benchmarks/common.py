"""Shared by all benchmarks: describing the machine, alternating candidates, saving results.

Knows nothing of what is measured. A result is a row of `results/<benchmark>.csv` together with the
date, the hardware and the versions; the last line that a benchmark prints is JSON.
"""

import argparse
import csv
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
RESULTS = Path(os.environ.get("SSD_BENCH_RESULTS", HERE / "results"))
VIDEO = HERE / "data" / "vtest.avi"


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options common to every benchmark."""
    found = argparse.ArgumentParser(description=description.partition("\n")[0])
    found.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    found.add_argument("--quick", action="store_true", help="smoke run; does not save its results")
    return found


def introduce(device: str, *packages: str) -> None:
    """Print the hardware and the versions."""
    print(hardware(device))
    print(", ".join(f"{name} {found}" for name, found in versions(*packages).items()), flush=True)


def hardware(device: str = "cpu") -> str:
    """The processor as the system names it, preceded by the GPU if that is measured."""
    text = Path("/proc/cpuinfo").read_text()
    names = [
        line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")
    ]
    bf16 = ", bf16" if "avx512_bf16" in text else ""
    cpu = f"{len(names)} x {names[0] if names else platform.machine()}{bf16}"
    if device == "cpu":
        return cpu
    import torch

    return f"{torch.cuda.get_device_name()}, {cpu}"


def versions(*packages: str) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def keep(path: Path, row: Mapping[str, Any], device: str = "cpu") -> None:
    """Append a row to a CSV, with date, hardware and torch version; new columns are added."""
    row = {
        "date": time.strftime("%Y-%m-%d"),
        "hardware": hardware(device),
        "torch": version("torch"),
        **row,
    }
    rows: list[Mapping[str, Any]] = []
    if path.exists():
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    rows.append(row)
    columns = dict.fromkeys(name for kept in rows for name in kept)
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def finish(benchmark: str, device: str, **results: Any) -> None:
    """Print the last line: JSON."""
    print(json.dumps({"benchmark": benchmark, "hardware": hardware(device), **results}))


def wall_seconds(call: Callable[[], Any]) -> float:
    """Duration of one call in seconds."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def alternate(
    candidates: Sequence[tuple[str, Callable[[], Any]]],
    *,
    seconds: float,
    least_rounds: int = 3,
    clock: Callable[[Callable[[], Any]], float] = wall_seconds,
) -> dict[str, float]:
    """Median seconds of each candidate.

    All run in one process, one after another in each round, so that other load on the machine
    affects them equally. Rounds take ``seconds`` per candidate in total, after one warm-up round.
    """
    for _, call in candidates:
        clock(call)
    times: dict[str, list[float]] = {name: [] for name, _ in candidates}
    give_up = time.monotonic() + seconds * len(candidates)
    while time.monotonic() < give_up or len(times[candidates[0][0]]) < least_rounds:
        for name, call in candidates:
            times[name].append(clock(call))
    return {name: median(of_candidate) for name, of_candidate in times.items()}
