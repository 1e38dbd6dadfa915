"""Replay of vtest.avi with the default model into Redis, measured from outside.

    make bench

Runs `ssd-worker replay` as a separate process against its own server, observes the stream and the
process, and prints the hardware, the versions and, as the last line, JSON:

- frames_per_second: all frames over the time from the first event to the last
- start_to_first_event_seconds: from starting the process to its first event in Redis, with warm
  file caches (an earlier run reads the same files)
- peak_rss_mib, and rss_growth_mib: resident memory over the last 100 frames minus that over the 100
  from frame 500 on (medians: a batch's activations are allocated and freed)
"""

import subprocess
import sys
import time
from statistics import median

from common import RESULTS, VIDEO, finish, introduce, keep, parser
from processes import WORKER, Server, resident_bytes, server

STREAM = "ssd:{vtest}:replay"
RUNS = 3
STEADY_FROM_FRAME = 500
SAMPLE_SECONDS = 0.05


def main() -> None:
    """Warm up, measure, print and save the result."""
    options = parser(__doc__).parse_args()
    introduce(options.device, "torch", "av", "redis")
    runs = 1 if options.quick else RUNS
    with server() as redis_server:
        if start(redis_server, options.device, "--stride", "100").wait() != 0:
            sys.exit("the replay failed")
        measured = [measure(redis_server, options.device) for _ in range(runs)]
    for result in measured:
        print(result)
    middle = sorted(measured, key=lambda result: result["frames_per_second"])[runs // 2]
    if not options.quick:
        keep(RESULTS / "replay.csv", middle, options.device)
    finish("replay", options.device, runs=runs, **middle)


def start(redis_server: Server, device: str, *options: str) -> subprocess.Popen[bytes]:
    """Start a replay."""
    return subprocess.Popen(
        [*WORKER, "replay", str(VIDEO), "--restart", "--device", device, *options],
        env=redis_server.environment,
        stderr=subprocess.DEVNULL,
    )


def measure(redis_server: Server, device: str) -> dict[str, float]:
    """Run one replay and sample it while it runs."""
    client = redis_server.client
    client.delete(STREAM, f"{STREAM}:producer")
    started = time.monotonic()
    process = start(redis_server, device)
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
        "frames": frames - 1,  # the last event reports the end
        "frames_per_second": round((frames - 1 - first_count) / (last - first), 1),
        "start_to_first_event_seconds": round(first - started, 2),
        "wall_seconds": round(time.monotonic() - started, 2),
        "peak_rss_mib": round(peak / 2**20),
        "rss_growth_mib": round((at_the_end - at_500) / 2**20, 1),
    }


if __name__ == "__main__":
    main()
