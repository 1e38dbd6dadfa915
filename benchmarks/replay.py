"""Replay of vtest.avi with the default model into Redis, measured from outside.

    make bench

Runs `ssd-worker replay` as its own process against an embedded server of its own, watches the
stream and the process, and prints the hardware, the versions and, as the last line, JSON:

- frames_per_second: all frames over the time from the first event to the last
- start_to_first_event_seconds: from starting the process to its first event in Redis, with warm
  file caches (a run before this one reads the same files)
- peak_rss_mib, and rss_growth_mib: resident memory over the last 100 frames less that over the 100
  from frame 500 on (medians: a batch's activations come and go)
"""

import csv
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

import redis

HERE = Path(__file__).parent
VIDEO = HERE / "data" / "vtest.avi"
RESULTS = HERE / "results" / "replay.csv"
STREAM = "ssd:{vtest}:replay"
PORT = 6399
RUNS = 3
STEADY_FROM_FRAME = 500
SAMPLE_SECONDS = 0.05


def main() -> None:
    """Warm up, measure, print, and keep the result."""
    print(hardware())
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "av", "redis")))
    with tempfile.TemporaryDirectory() as state:
        environment = os.environ | {
            "SSD_WORKER_STATE_DIR": state,
            "SSD_WORKER_EMBEDDED_PORT": str(PORT),
        }
        try:
            run(environment, "--stride", "100")
            runs = [measure(environment) for _ in range(RUNS)]
        finally:
            stop_server(Path(state))
    for result in runs:
        print(result)
    best = sorted(runs, key=lambda result: result["frames_per_second"])[RUNS // 2]
    keep(best)
    print(json.dumps({"benchmark": "replay", "hardware": hardware(), "runs": RUNS} | best))


def run(environment: dict[str, str], *options: str) -> subprocess.Popen[bytes]:
    """A replay that has ended."""
    process = start(environment, *options)
    if process.wait() != 0:
        sys.exit("the replay failed")
    return process


def start(environment: dict[str, str], *options: str) -> subprocess.Popen[bytes]:
    """A replay that runs."""
    program = Path(sys.executable).with_name("ssd-worker")
    return subprocess.Popen(
        [str(program), "replay", str(VIDEO), "--restart", *options],
        env=environment,
        stderr=subprocess.DEVNULL,
    )


def measure(environment: dict[str, str]) -> dict[str, float]:
    """One replay, watched while it runs; the figures of the median run are the result."""
    client = redis.Redis(port=PORT)
    client.delete(STREAM, f"{STREAM}:producer")
    started = time.monotonic()
    process = start(environment)
    first = last = peak = 0.0
    frames = 0
    resident: dict[int, int] = {}
    while process.poll() is None:
        now, count = time.monotonic(), int(client.xlen(STREAM))
        rss = resident_bytes(process.pid)
        if count and not first:
            first, first_count = now, count
        if count != frames:
            frames, last = count, now
            resident[count] = rss
        peak = max(peak, rss)
        time.sleep(SAMPLE_SECONDS)
    if process.returncode != 0:
        sys.exit("the replay failed")
    at_500, at_the_end = (
        median(rss for count, rss in resident.items() if start <= count < start + 100)
        for start in (STEADY_FROM_FRAME, frames - 101)
    )
    return {
        "frames": frames - 1,  # the last event tells the end
        "frames_per_second": round((frames - 1 - first_count) / (last - first), 1),
        "start_to_first_event_seconds": round(first - started, 2),
        "wall_seconds": round(time.monotonic() - started, 2),
        "peak_rss_mib": round(peak / 2**20),
        "rss_growth_mib": round((at_the_end - at_500) / 2**20, 1),
    }


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 once it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def hardware() -> str:
    """The processor, as the system names it."""
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    bf16 = ", bf16" if "avx512_bf16" in Path("/proc/cpuinfo").read_text() else ""
    return f"{len(names)} x {names[0] if names else platform.machine()}{bf16}"


def keep(result: dict[str, float]) -> None:
    """Append to the results, with date, hardware and versions."""
    row = {
        "date": time.strftime("%Y-%m-%d"),
        "hardware": hardware(),
        "torch": version("torch"),
        **result,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


def stop_server(state: Path) -> None:
    """End the embedded server of this benchmark."""
    for pid_file in state.glob("valkey-*/valkey.pid"):
        os.kill(int(pid_file.read_text()), signal.SIGTERM)
    time.sleep(0.5)


if __name__ == "__main__":
    main()
