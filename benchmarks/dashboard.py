"""What the dashboard's server costs: share of a core with cameras on the page and viewers of it.

    python benchmarks/dashboard.py [--cameras 50] [--rate 10] [--viewers 5] [--seconds 20]

A process publishes what workers would: for each camera `--rate` events a second with three
detections each, and a picture of 40 kB a second. Another one does what `--viewers` browsers do that
have the page open and see all cameras: it reads the server-sent events, asks for the pictures that
are new once a second, and for the coverage of the last day when the page is opened and once a
minute. Both are real clients of real servers, over loopback.

The server's CPU time, of all its threads, is read before and after `--seconds`, from some seconds
after the pages were opened on. To open a page costs more, once: `opening_cpu_seconds`. The times at
which viewers read are not judged, so that it can run on a machine that does something else too.
"""

import asyncio
import io
import multiprocessing
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.synchronize import Event as Signal
from typing import TypeAlias

import httpx
import numpy as np
from common import RESULTS, finish, introduce, keep, parser
from PIL import Image
from processes import WORKER, Server, cpu_seconds, resident_bytes, server

from worker.events import (
    CameraData,
    CameraEvent,
    Detection,
    DetectionsData,
    DetectionsEvent,
    ModelInfo,
)
from worker.sinks.redis_stream import RedisStreamSink
from worker.snapshots import Snapshot, SnapshotInfo

Counts: TypeAlias = "multiprocessing.Queue[dict[str, int]]"

PICTURE_SECONDS = 1.0
COVERAGE_SECONDS = 60.0
SETTLE_SECONDS = 5.0
DETECTIONS = tuple(
    Detection(label=label, class_id=4, score=0.9, box=(0.1, 0.2, 0.3, 0.4))
    for label in ("Person", "Person", "Car")
)
MODEL = ModelInfo(name="ssd_mobilenet_v2_oid", digest="sha256:" + "0" * 64)


def publish(url: str, cameras: int, rate: float, over: Signal) -> None:
    """Be the workers of all cameras until `over` is set."""
    sink = RedisStreamSink(url, stream_maxlen=100_000)
    epoch = round(time.time() * 1000)
    names = [f"camera-{number:03}" for number in range(cameras)]
    noise = np.random.default_rng(0).integers(0, 255, (360, 640, 3), np.uint8) // 6 + 90
    picture = Image.fromarray(noise.astype(np.uint8))
    for name in names:
        sink.publish([_state(name, epoch)])
    began = time.monotonic()
    step = 0
    while not over.is_set():
        step += 1
        now = datetime.now(UTC)
        sink.publish([_event(name, epoch, step, now) for name in names])
        if step % max(1, round(rate * PICTURE_SECONDS)) == 1:
            sink.put_snapshots(
                [(_snapshot(picture, name, epoch, step, now), 10.0) for name in names]
            )
        time.sleep(max(0.0, began + step / rate - time.monotonic()))


def _state(name: str, epoch: int) -> CameraEvent:
    data = CameraData(
        camera_id=name, mode="live", epoch=epoch, seq=0, state="up", reason="connected", frames=0,
        dropped=0,
    )  # fmt: skip
    return CameraEvent(
        id=f"{name}/{epoch}/0", source=f"ssd-worker/{name}", time=datetime.now(UTC), data=data
    )


def _event(name: str, epoch: int, step: int, now: datetime) -> DetectionsEvent:
    data = DetectionsData(
        camera_id=name, mode="live", epoch=epoch, seq=step, frame_index=2 * step, pts=step,
        time_base="1/10", pts_seconds=step / 10, clock="arrival", width=1920, height=1080,
        skipped=1, dropped=0, model=MODEL, detections=DETECTIONS,
    )  # fmt: skip
    return DetectionsEvent(
        id=f"{name}/{epoch}/{step}", source=f"ssd-worker/{name}", time=now, data=data
    )


_encoded: dict[str, bytes] = {}


def _snapshot(picture: Image.Image, name: str, epoch: int, step: int, now: datetime) -> Snapshot:
    """The picture with another comment each time: encoded once, since that is a worker's cost."""
    info = SnapshotInfo(camera_id=name, epoch=epoch, frame_index=2 * step, time=now)
    if not _encoded:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=75)
        _encoded["jpeg"] = file.getvalue()
    comment = info.to_json().encode()
    segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
    jpeg = b"\xff\xd8" + segment + _encoded["jpeg"][2:]
    return Snapshot(info, jpeg, time.monotonic())


def watch(url: str, viewers: int, over: Signal, read: Counts) -> None:
    """Be the browsers until `over` is set; gives how much they have read."""
    counts = {"events": 0, "pictures": 0, "bytes": 0}

    async def stream(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", "/api/events", timeout=60) as answer:
            async for chunk in answer.aiter_raw():
                counts["events"] += chunk.count(b"event: ")
                counts["bytes"] += len(chunk)

    async def pictures(client: httpx.AsyncClient) -> None:
        version = "0"
        while True:
            answer = await client.get("/api/snapshots", params={"after": version}, timeout=60)
            version = answer.headers["X-Version"]
            counts["pictures"] += answer.content.count(b'"bytes"')
            counts["bytes"] += len(answer.content)
            await asyncio.sleep(PICTURE_SECONDS)

    async def coverage(client: httpx.AsyncClient) -> None:
        while True:
            while (await client.get("/api/coverage", timeout=60)).json()["pending"]:
                await asyncio.sleep(1)
            await asyncio.sleep(COVERAGE_SECONDS)

    async def page() -> None:
        async with httpx.AsyncClient(base_url=url) as client:
            await asyncio.gather(stream(client), pictures(client), coverage(client))

    async def all_pages() -> None:
        pages = [asyncio.create_task(page()) for _ in range(viewers)]
        while not over.is_set():
            await asyncio.sleep(0.2)
            for each in pages:
                if each.done():
                    each.result()
        for each in pages:
            each.cancel()

    asyncio.run(all_pages())
    read.put(counts)


@contextmanager
def dashboard(redis_server: Server) -> Iterator[tuple[str, int]]:
    """The address of a dashboard that runs, and its process id."""
    process = subprocess.Popen(
        [*WORKER, "dashboard", "--listen", "0", "--redis-url", redis_server.url],
        env=redis_server.environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        found = re.search(r"http://\S+", process.stderr.readline())
        assert found is not None
        yield found[0], process.pid
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cameras", type=int, default=50)
    options.add_argument("--rate", type=float, default=10, help="events a second and camera")
    options.add_argument("--viewers", type=int, default=5)
    options.add_argument("--seconds", type=float, default=20)
    given = options.parse_args()
    if given.quick:
        given.cameras, given.viewers, given.seconds = 5, 2, 3
    introduce("cpu", "starlette", "uvicorn", "sse-starlette", "redis")
    over = multiprocessing.Event()
    read: Counts = multiprocessing.Queue()
    with server() as redis_server:
        publisher = multiprocessing.Process(
            target=publish, args=(redis_server.url, given.cameras, given.rate, over)
        )
        publisher.start()
        try:
            time.sleep(SETTLE_SECONDS)
            with dashboard(redis_server) as (url, pid):
                time.sleep(SETTLE_SECONDS)
                idle_from = cpu_seconds(pid)
                time.sleep(SETTLE_SECONDS)
                idle = (cpu_seconds(pid) - idle_from) / SETTLE_SECONDS
                opened_at = cpu_seconds(pid)
                browsers = multiprocessing.Process(
                    target=watch, args=(url, given.viewers, over, read)
                )
                browsers.start()
                time.sleep(SETTLE_SECONDS)
                used_from, since = cpu_seconds(pid), time.monotonic()
                time.sleep(given.seconds)
                used, seconds = cpu_seconds(pid) - used_from, time.monotonic() - since
                events_per_second = _events_per_second(redis_server)
                over.set()
                counts = read.get(timeout=30)
                browsers.join()
                row = {
                    "cameras": given.cameras,
                    "events_per_camera_and_second": given.rate,
                    "published_per_second": round(events_per_second),
                    "viewers": given.viewers,
                    "core_percent": round(100 * used / seconds, 1),
                    "core_percent_without_viewers": round(100 * idle, 1),
                    "opening_cpu_seconds": round(used_from - opened_at, 2),
                    "resident_mib": resident_bytes(pid) >> 20,
                    "events_read": counts["events"],
                    "pictures_read": counts["pictures"],
                    "megabytes_read": round(counts["bytes"] / 1e6),
                }
        finally:
            over.set()
            publisher.join()
    for name, value in row.items():
        print(f"{name:>30}: {value}")
    if not given.quick:
        keep(RESULTS / "dashboard.csv", row)
    finish("dashboard", "cpu", **row)


def _events_per_second(redis_server: Server) -> float:
    """What was really published, of late: the publisher may not keep up."""
    client = redis_server.client
    total = 0.0
    for name in client.smembers("ssd:cameras"):
        last = client.xrevrange(f"ssd:{{{name.decode()}}}:detections", count=50)
        times = [int(entry_id.partition(b"-")[0]) for entry_id, _ in last]
        total += (len(times) - 1) / max(0.001, (times[0] - times[-1]) / 1000)
    return total


if __name__ == "__main__":
    main()
