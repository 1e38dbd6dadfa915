"""How the CPU time of a replay is divided among its parts.

    python benchmarks/profile_replay.py [--quick] [--clip PATH] [--max-batch N]

Runs `ssd-worker replay` of vtest.avi into Redis inside this process, on the CPU, with a meter
around the functions on a frame's path. The worker itself is unchanged; the parts are looked up by
name, and a part that is never called is an error, so that a renamed function is noticed.

Parts run on several threads at once, so shares are of CPU time, not of wall-clock time: each call
counts the CPU time of its thread, excluding metered calls inside it. FFmpeg's own threads work for
the thread that waits for them: their CPU time during a call counts towards the call. The total is
the CPU time of the process from the pipeline's start to its end, excluding the loading of the model
and the server. The rest belongs to no part: queues, the loops of source and publisher, the meter.

`all_but_network_and_frame_decoding` is the share that this project can influence.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

from clips import short_clip
from common import RESULTS, VIDEO, finish, introduce, keep, parser, versions
from processes import server

PARTS = {
    "frame decoding": ["worker.sources.decoding:DecodedPictures.__iter__"],
    "scaling": ["worker.sources.conversion:PictureConverter.convert"],
    "preprocess": ["ssd_core.runners.cpu:preprocess"],
    "network": ["ssd_core.models.ssd:SSD.forward"],
    "decode_nms": ["ssd_core.runners.cpu:decode_nms"],
    "unpacking detections": [
        "ssd_core.runners.cpu:CpuRunner._run_share",
        "worker.pipeline.detection:_published",
    ],
    "making events": ["worker.pipeline.event_maker:EventMaker.make"],
    "JSON": ["worker.events:_CloudEvent.to_json"],
    "publishing": ["worker.sinks.redis_stream:RedisStreamSink.publish"],
}
NATIVE = {"frame decoding", "scaling"}
"""Parts for which FFmpeg's threads work."""
DESPITE_US = {"network", "frame decoding"}
REFRESH_CALLS = 16
TASKS = Path("/proc/self/task")


class Meter:
    """CPU seconds and calls of each part, excluding metered calls inside its own."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self.calls: dict[str, int] = dict.fromkeys(PARTS, 0)
        self.on = False
        self._lock = threading.Lock()
        self._local = threading.local()
        self._native = NativeThreads()

    @contextmanager
    def running(self, part: str) -> Iterator[None]:
        """Count the body as a call of the part."""
        if not self.on:
            yield
            return
        if part in NATIVE:
            self._native.look_for_new()
        inside: list[float] = self._local.__dict__.setdefault("inside", [])
        inside.append(0.0)
        before = self._now(part)
        try:
            yield
        finally:
            used = self._now(part) - before
            own = used - inside.pop()
            if inside:
                inside[-1] += used
            with self._lock:
                self.seconds[part] += own
                self.calls[part] += 1

    def _now(self, part: str) -> float:
        return time.thread_time() + (self._native.seconds() if part in NATIVE else 0.0)


class NativeThreads:
    """CPU time of the threads of this process that are not Python's (Linux)."""

    def __init__(self) -> None:
        self._threads: set[int] = set()
        self._calls = 0

    def look_for_new(self) -> None:
        """Find threads started since, every ``REFRESH_CALLS`` calls; not during a measurement."""
        if self._calls % REFRESH_CALLS == 0:
            python = {thread.native_id for thread in threading.enumerate()}
            self._threads = {int(entry.name) for entry in TASKS.iterdir()} - python
        self._calls += 1

    def seconds(self) -> float:
        """CPU seconds of all live threads."""
        total = 0.0
        for thread in list(self._threads):
            try:
                total += time.clock_gettime(cpu_clock(thread))
            except OSError:  # the thread has exited
                self._threads.discard(thread)
        return total


def cpu_clock(thread: int) -> int:
    """The kernel's clock id for a thread's CPU time (CPUCLOCK_PERTHREAD, CPUCLOCK_SCHED)."""
    return (~thread << 3) | 6


def main() -> None:
    """Replay once with the meter on; print and save the shares."""
    options = parser(__doc__)
    options.add_argument("--clip", type=Path, default=VIDEO)
    options.add_argument("--max-batch", type=int)
    chosen = options.parse_args()
    if chosen.device != "cpu":
        sys.exit("this profile is of the CPU only, which excludes a network on a GPU: use cpu")
    clip = short_clip(60) if chosen.quick else chosen.clip
    introduce("cpu", "torch", "av", "redis")
    meter = Meter()
    totals = {"seconds": 0.0, "wall_seconds": 0.0, "frames": 0}
    attach(meter, totals)
    from worker.cli import main as ssd_worker

    with server() as redis_server:
        os.environ.update(redis_server.environment)
        arguments = ["replay", str(clip), "--device", "cpu", "--log-level", "warning"]
        if chosen.max_batch:
            arguments += ["--max-batch", str(chosen.max_batch)]
        if ssd_worker(arguments) != 0:
            sys.exit("the replay failed")
    unseen = [part for part, calls in meter.calls.items() if not calls]
    if unseen:
        sys.exit(f"never called: {', '.join(unseen)}: correct the names in PARTS")
    report(meter, totals, clip, quick=chosen.quick)


def attach(meter: Meter, totals: dict[str, float]) -> None:
    """Wrap the parts in the meter, and the pipeline for the totals."""
    for part, places in PARTS.items():
        for place in places:
            owner, name = find(place)
            function = getattr(owner, name)
            wrap = metered_iterator if name == "__iter__" else metered
            setattr(owner, name, wrap(meter, part, function))
    pipeline, name = find("worker.pipeline.pipeline:Pipeline.run")
    run = getattr(pipeline, name)

    @wraps(run)
    def timed(self: Any) -> Any:
        used, started = time.process_time(), time.perf_counter()
        meter.on = True
        try:
            summary = run(self)
        finally:
            meter.on = False
        totals["seconds"] += time.process_time() - used
        totals["wall_seconds"] += time.perf_counter() - started
        totals["frames"] += summary.frames
        return summary

    setattr(pipeline, name, timed)


def find(place: str) -> tuple[Any, str]:
    """The owner and the name of `module:Class.method` or `module:function`."""
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner: Any = import_module(module)
    for step in owners:
        owner = getattr(owner, step)
    return owner, name


def metered(meter: Meter, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that its calls count towards the part."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with meter.running(part):
            return function(*args, **kwargs)

    return call


def metered_iterator(meter: Meter, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a generator function so that each step counts towards the part."""

    @wraps(function)
    def iterate(*args: Any, **kwargs: Any) -> Iterator[Any]:
        iterator = function(*args, **kwargs)
        while True:
            with meter.running(part):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    return iterate


def report(meter: Meter, totals: dict[str, float], clip: Path, *, quick: bool) -> None:
    """Print the table and the JSON, and save the shares."""
    total, frames = totals["seconds"], int(totals["frames"])
    seconds = meter.seconds | {"the rest": total - sum(meter.seconds.values())}
    shares = {part: round(used / total, 4) for part, used in seconds.items()}
    print(f"{'part':24}{'share':>8}{'ms/frame':>12}{'calls':>8}")
    for part, used in seconds.items():
        calls = meter.calls.get(part, "")
        print(f"{part:24}{shares[part]:8.1%}{used / frames * 1e3:12.3f}{calls:>8}")
    ours = round(1 - sum(shares[part] for part in DESPITE_US), 4)
    row = {
        "clip": clip.name,
        "frames": frames,
        "frames_per_second": round(frames / totals["wall_seconds"], 1),
        "cpu_ms_per_frame": round(total / frames * 1e3, 2),
        "all_but_network_and_frame_decoding": ours,
        **shares,
    }
    if not quick:
        keep(RESULTS / "profile_replay.csv", row)
    finish("profile_replay", "cpu", versions=versions("torch", "av"), **row)


if __name__ == "__main__":
    main()
