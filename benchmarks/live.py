"""How many 1080p25 cameras one worker can carry, and the latency of their events.

    python benchmarks/live.py [--device cuda] [--quick] [--cameras file]

Cameras are real RTSP connections over TCP to rtsp_cameras.py, which plays a 1920x1080 H.264 clip at
25 frames/s (clips.py) to each of them, up to `CAMERAS_PER_SERVER` from one process: a server uses
about 2 % of a core per camera, which leaves the machine to the worker. All connect when the worker
starts, so that the key frames of all cameras arrive close together, which is the worst case.
`--cameras file` lets `ssd-worker run` play the file itself in real time, for comparison: without
network and RTP, and with the capture time taken after decoding.

Each step starts `ssd-worker run` with N cameras and `--publish all`, lets it settle, and evaluates
the events of the next `--seconds-per-step` seconds:

- latency: the time of an event's entry in Redis (the server's clock, in ms) minus the event's
  `time`: when its frame was captured, for RTSP by the sender's clock, from its RTCP reports. The
  duration of a frame, 40 ms, is part of it: FFmpeg's parser passes a picture on with the next one.
- dropped: share of decoded frames that were replaced by newer ones
- behind: share of the 25 frames/s that is missing, neither published nor dropped

`--workers` spreads the cameras over several workers on one device.

N cameras are carried if the 95th percentile of the latency is below 100 ms and both shares are
below 1 %. The search doubles N from `--start` until that fails, then bisects. CPU is the workers'
over the same seconds, as a percentage of one core (`machine_cpu_percent`: all processes, including
the cameras); memory per camera is what each one adds beyond the first step.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from clips import HD_RATE, hd_clip
from common import HERE, RESULTS, finish, introduce, keep, parser
from processes import WORKER, Server, cpu_seconds, free_port, resident_bytes, server

MOST_LATENCY_MS = 100
MOST_LOST = 0.01
CAMERAS_PER_SERVER = 8
SETTLE_SECONDS = 3.0
FINEST = 8
"""The search ends when the interval is an eighth of the cameras carried, or one camera."""
UP_SECONDS = 40.0
LOG_CHARACTERS = 1500
FIRST_PTS_FRAMES = 2
"""The first frames of an RTSP stream have no pts and no RTCP time in FFmpeg."""


def main() -> None:
    """Search for the maximum number of cameras; print and save each step."""
    options = parser(__doc__)
    options.add_argument("--cameras", choices=("rtsp", "file"), default="rtsp")
    options.add_argument("--start", type=int, help="number of cameras in the first step")
    options.add_argument("--most", type=int, help="maximum number of cameras in a step")
    options.add_argument("--workers", type=int, default=1, help="processes that share the device")
    options.add_argument("--seconds-per-step", type=float, default=8.0)
    options.add_argument("--most-seconds", type=float, help="start no step after this time")
    options.add_argument(
        "--worker-options", default="", help='options for `ssd-worker run`, as in "--max-batch 32"'
    )
    chosen = options.parse_args()
    fast = chosen.device == "cuda"
    chosen.start = chosen.start or (8 if fast else 1)
    chosen.most = chosen.most or (64 if fast else 8)
    chosen.most_seconds = chosen.most_seconds or (50 if fast else 80)
    if chosen.quick:
        chosen.start, chosen.most, chosen.seconds_per_step = 1, 1, 3.0
    introduce(chosen.device, "torch", "av", "redis")
    steps: dict[int, dict[str, Any]] = {}
    for count in Search(chosen.start, chosen.most, time.monotonic() + chosen.most_seconds, steps):
        row = {"device": chosen.device, "cameras_by": chosen.cameras, "cameras": count}
        row["workers"] = chosen.workers
        if chosen.worker_options:
            row["worker_options"] = chosen.worker_options
        try:
            row |= watch(count, chosen)
        except TimeoutError as error:
            row |= {"carried": False, "failed": str(error)}
        first = steps[min(steps)] if steps else row
        if count > first["cameras"] and "rss_mib" in row and "rss_mib" in first:
            added = row["rss_mib"] - first["rss_mib"]
            row["rss_mib_per_camera"] = round(added / (count - first["cameras"]), 1)
        steps[count] = row
        print(row, flush=True)
        if not chosen.quick:
            keep(RESULTS / "live.csv", row, chosen.device)
    carried = [count for count, row in steps.items() if row["carried"]]
    most = max(carried, default=0)
    best = steps[most or min(steps)]
    finish("live", chosen.device, most_cameras=most, at=best, steps=list(steps.values()))


class Search:
    """The numbers of cameras to try, each chosen from the results so far."""

    def __init__(
        self, start: int, most: int, deadline: float, steps: dict[int, dict[str, Any]]
    ) -> None:
        self._start, self._most, self._deadline, self._steps = start, most, deadline, steps

    def __iter__(self) -> Iterator[int]:
        """Double until a step fails, then bisect; downwards if ``start`` already fails."""
        count = self._start
        while time.monotonic() < self._deadline:
            yield count
            carried = [n for n, row in self._steps.items() if row["carried"]]
            failed = [n for n, row in self._steps.items() if not row["carried"]]
            good, bad = max(carried, default=0), min(failed, default=self._most + 1)
            if bad - good <= max(1, good // FINEST):
                return
            count = min(good * 2, self._most) if not failed else (good + bad) // 2


def watch(count: int, chosen: argparse.Namespace) -> dict[str, Any]:
    """One step: ``count`` cameras for some seconds."""
    with ExitStack() as stack:  # stops in reverse order: worker, cameras, server
        redis_server = stack.enter_context(server())
        sources = stack.enter_context(cameras(count, chosen.cameras))
        options = ["--publish", "all", "--loop", "--device", chosen.device]
        options += chosen.worker_options.split()
        workers = []
        for number in range(min(chosen.workers, count)):
            command = [*WORKER, "run", *sources[number :: chosen.workers], *options]
            log = stack.enter_context(tempfile.TemporaryFile())
            worker = subprocess.Popen(command, env=redis_server.environment, stderr=log)
            stack.callback(print_end, log)
            stack.callback(stop, worker)
            workers.append(worker)
        ids = [source.partition("=")[0] for source in sources]
        wait_until_up(redis_server, ids, workers)
        time.sleep(SETTLE_SECONDS)
        began, cpu_began, all_began = time.time(), cpu_of(workers), busy_seconds()
        time.sleep(chosen.seconds_per_step)
        ended, cpu_ended, all_ended = time.time(), cpu_of(workers), busy_seconds()
        rss = sum(resident_bytes(worker.pid) for worker in workers) / 2**20
        check_running(workers)
        time.sleep(0.5)  # frames captured in the window may be published a little later
        seen = [seen_of(redis_server, camera, began, ended) for camera in ids]
    cpu = (cpu_ended - cpu_began) / (ended - began)
    return summary(seen, ended - began) | {
        "cpu_percent_per_camera": round(cpu / count * 100, 1),
        "cpu_percent": round(cpu * 100),
        "machine_cpu_percent": round((all_ended - all_began) / (ended - began) * 100),
        "rss_mib": round(rss),
    }


@dataclass
class Seen:
    """The frames of one camera in the window."""

    latency_ms: list[float]
    dropped: int


def seen_of(redis_server: Server, camera: str, began: float, ended: float) -> Seen:
    """Read a camera's events that were published in the window."""
    seen = Seen([], 0)
    entries = redis_server.client.xrange(
        f"ssd:{{{camera}}}:detections", min=round(began * 1000), max=round(ended * 1000)
    )
    for entry_id, fields in entries:
        event = json.loads(fields[b"event"])
        if event["type"] != "ssd.detections.v1":
            continue
        data = event["data"]
        published_ms = int(entry_id.partition(b"-")[0])
        captured_ms = datetime.fromisoformat(event["time"]).timestamp() * 1000
        seen.latency_ms.append(published_ms - captured_ms)
        seen.dropped += data["dropped"]
    return seen


def summary(seen: list[Seen], seconds: float) -> dict[str, Any]:
    """The figures of a step."""
    latency = np.array([ms for camera in seen for ms in camera.latency_ms] or [float("inf")])
    published, dropped = sum(len(s.latency_ms) for s in seen), sum(s.dropped for s in seen)
    expected = len(seen) * HD_RATE * seconds
    behind = max(0.0, 1 - (published + dropped) / expected)
    lost = dropped / max(published + dropped, 1)
    p50, p95, p99 = np.percentile(latency, (50, 95, 99)).tolist()
    return {
        "carried": p95 < MOST_LATENCY_MS and lost < MOST_LOST and behind < MOST_LOST,
        "frames_per_second": round(published / seconds, 1),
        "p50_ms": round(p50, 1),
        "p95_ms": round(p95, 1),
        "p99_ms": round(p99, 1),
        "dropped_share": round(lost, 4),
        "behind_share": round(behind, 4),
    }


@contextmanager
def cameras(count: int, kind: str) -> Iterator[list[str]]:
    """Start ``count`` cameras; yields them as arguments of `ssd-worker run`."""
    clip = hd_clip()
    if kind == "rtsp" and find_spec("aio_rtsp_toolkit") is None:
        print("the worker plays the file itself; for RTSP: pip install aio-rtsp-toolkit")
        kind = "file"
    if kind == "file":
        yield [f"cam{index}={clip}" for index in range(count)]
        return
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        shutil.copy(clip, Path(directory) / "cam.mp4")
        ports = [free_port() for _ in range(0, count, CAMERAS_PER_SERVER)]
        for port in ports:
            process = subprocess.Popen(
                [sys.executable, str(HERE / "rtsp_cameras.py"), directory, str(port)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(stop, process, signal.SIGKILL)
        for port in ports:
            wait_for_port(port)
        yield [
            f"cam{i}=rtsp://127.0.0.1:{ports[i // CAMERAS_PER_SERVER]}/cam.mp4?play_count=0"
            for i in range(count)
        ]


Workers: TypeAlias = "list[subprocess.Popen[bytes]]"


def cpu_of(workers: Workers) -> float:
    """Seconds of processor time so far."""
    return sum(cpu_seconds(worker.pid) for worker in workers)


def check_running(workers: Workers) -> None:
    """Exit if a worker has."""
    if any(worker.poll() is not None for worker in workers):
        sys.exit("a worker exited unexpectedly")


def wait_until_up(redis_server: Server, ids: list[str], workers: Workers) -> None:
    """Wait until every camera has published a frame with a pts."""
    deadline = time.monotonic() + UP_SECONDS
    streams = [f"ssd:{{{camera}}}:detections" for camera in ids]
    while any(int(redis_server.client.xlen(s)) <= FIRST_PTS_FRAMES for s in streams):
        check_running(workers)
        if time.monotonic() > deadline:
            down = sum(int(redis_server.client.xlen(s)) <= FIRST_PTS_FRAMES for s in streams)
            raise TimeoutError(f"{down} cameras were not up within {UP_SECONDS:.0f} s")
        time.sleep(0.1)


def wait_for_port(port: int) -> None:
    """Wait until a server listens on the port."""
    deadline = time.monotonic() + UP_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    sys.exit("the RTSP server did not start")


def print_end(log: IO[bytes]) -> None:
    """Print the end of a worker's log: warnings, and why it exited."""
    log.seek(0)
    print(log.read().decode(errors="replace")[-LOG_CHARACTERS:], file=sys.stderr, flush=True)


def busy_seconds() -> float:
    """CPU time of all processes since boot."""
    user, nice, system = (int(n) for n in Path("/proc/stat").read_text().split(maxsplit=4)[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def stop(process: "subprocess.Popen[bytes]", number: int = signal.SIGTERM) -> None:
    """Send a signal to a process of this benchmark, and wait for its exit."""
    if process.poll() is None:
        os.kill(process.pid, number)
    process.wait()


if __name__ == "__main__":
    main()
