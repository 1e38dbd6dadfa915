"""What the host does around a network on a GPU, part by part and in variants; decoding on a GPU.

    python benchmarks/gpu/host_variants.py [--device cpu] [--seconds 60] [--parts throughput ...]

Parts and variants come in order of importance, each row is in the file as soon as it is measured,
and after `--seconds` no further one begins.

- throughput: images/s of pipelined `Detector.submit`, two batches in flight, uint8 arrays of the
  network's size, with 1, 2 and 4 threads that copy; with 1080p planes in host memory and on the
  device; and of `FrameDetector`, which rounds. CPU seconds are the process's, of all threads.
- split: microseconds per image of each part of `submit` and of its result, by the wall clock
- events: how much of a core a thread takes that waits for an event, with and without `blocking`
- buckets: milliseconds on the device of each batch size, what its capture takes, and what three
  ways to round a batch up cost over batches of 1 to 16 and 1 to 64 images
- decoding: a process of its own, since FFmpeg wants to open the GPU before PyTorch: whether
  `claim_gpu` works, frames/s of 1, 8 and 32 decoding threads with planes left where they are and
  copied after a wait, the seconds of Python per frame, and whether planes equal the CPU's
- torch_first: another process opens the GPU with PyTorch first; whether FFmpeg takes it then

Rows go to `host.csv` in the folder OUT. With `--device cpu` small sizes try what does not need a
GPU; such times mean nothing.
"""

import argparse
import contextlib
import csv
import ctypes
import functools
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import hardware, introduce

OUT = Path(os.environ.get("OUT", Path(__file__).parents[1] / "results" / "gpu"))
ROOT = Path(__file__).parents[2]
MODELS = ("ssd300_vgg16", "ssd_mobilenet_v2_oid")
PARTS = ("throughput", "decoding", "events", "split", "buckets", "torch_first")
ORDERS = ("ffmpeg_first", "torch_first")
HD = (1080, 1920)
DECODING_SECONDS = 35
OPENING_SECONDS = 6
ROWS: list[dict[str, Any]] = []


class OutOfTime(Exception):
    """The time for all parts together is up."""


@dataclass
class Run:
    """What the command line asks for."""

    device: str = "cpu"
    ends_at: float = float("inf")


RUN = Run()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = "cuda" if torch.cuda.is_available() else "cpu"
    options.add_argument("--device", choices=("cpu", "cuda"), default=default)
    options.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    options.add_argument("--decoding", choices=ORDERS)
    options.add_argument("--seconds", type=float, default=60.0)
    chosen = options.parse_args()
    if chosen.decoding:
        decoding(chosen.decoding)
        return
    RUN.device, RUN.ends_at = chosen.device, time.monotonic() + chosen.seconds
    introduce(chosen.device, "torch", "triton", "av")
    parts: dict[str, Callable[[str], None]] = {
        "throughput": throughput,
        "decoding": lambda device: in_a_process("ffmpeg_first"),
        "events": events,
        "split": split,
        "buckets": buckets,
        "torch_first": lambda device: in_a_process("torch_first"),
    }
    for name in PARTS:
        if name not in chosen.parts:
            continue
        try:
            parts[name](chosen.device)
        except OutOfTime:
            print(f"{name} and what follows: out of time")
            break
        except Exception as error:  # the other parts still run
            keep_row(name, "failed", reason=f"{type(error).__name__}: {error}"[:300])
    print(json.dumps({"benchmark": "host_variants", "hardware": hardware(chosen.device)}))


def note(part: str, variant: str, **values: Any) -> None:
    """Print and keep a row; raises OutOfTime if there shall be no more."""
    keep_row(part, variant, **values)
    if time.monotonic() > RUN.ends_at:
        raise OutOfTime


def keep_row(part: str, variant: str, **values: Any) -> None:
    """Print a row, and write the file anew with it."""
    values = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in values.items()}
    ROWS.append({"part": part, "variant": variant, **values})
    print(part, variant, *(f"{k}={v}" for k, v in values.items()), flush=True)
    columns = dict.fromkeys(name for row in ROWS for name in row)
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / "host.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["date", "hardware", "torch", *columns])
        writer.writeheader()
        about = {
            "date": time.strftime("%Y-%m-%d"),
            "hardware": hardware(RUN.device),
            "torch": torch.__version__,
        }
        writer.writerows(about | row for row in ROWS)


# The detector


@functools.cache
def loaded(model: str, device: str) -> Any:
    from detector import load

    return load(model, device, "auto")


@functools.cache
def images_of(model: str, count: int) -> list[Any]:
    """Frames of vtest.avi in the network's size; noise where PyAV is not installed."""
    from ssd_core.models.zoo import get_spec

    size = get_spec(model).image_size
    try:
        from detector import frames
    except ImportError:
        generator = np.random.default_rng(0)
        return [generator.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]
    return frames(size, count)


def hd_planes(count: int, device: str) -> list[Any]:
    """NV12 pictures of 1080p; one piece of memory each."""
    from ssd_core.yuv import YuvImage

    made = []
    noise = torch.randint(16, 235, (HD[0] * 3 // 2, HD[1]), dtype=torch.uint8)
    for number in range(count):
        both = noise.roll(number, dims=1).to(device)
        chroma = both[HD[0] :].view(HD[0] // 2, HD[1] // 2, 2)
        made.append(YuvImage(both[: HD[0]], chroma[..., 0], chroma[..., 1], False, "bt709"))
    return made


def pipelined(start: Callable[[Any], Callable[[], Any]], images: Any, seconds: float) -> float:
    """Batches a second, two in flight."""
    start(images)()
    done = 0
    waiting = [start(images)]
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        waiting.append(start(images))
        waiting.pop(0)()
        done += 1
    took = time.perf_counter() - began
    waiting.pop()()
    return done / took


def throughput(device: str) -> None:
    from ssd_core.runners import plane_upload as upload
    from worker.pipeline.detection import FrameDetector

    seconds, batches = (0.8, (64, 16)) if device == "cuda" else (0.1, (2,))
    copy_all = upload.copy_all
    for batch, model in itertools.product(batches, MODELS):
        detector = loaded(model, device)
        images = images_of(model, batch)

        def told(variant: str, start: Any, images: Any = images, **more: Any) -> None:
            cpu = time.process_time()
            began = time.perf_counter()
            rate = pipelined(start, images, seconds) * len(images)
            cores = (time.process_time() - cpu) / (time.perf_counter() - began)
            note("throughput", variant, images_per_second=rate, cores=cores, **more)

        more = {"model": model, "batch": batch}
        detector.submit(images)()
        for copiers in (4, 2, 1) if batch == batches[0] else (4,):
            upload.copy_all = functools.partial(copy_all, copiers=copiers)
            told(f"arrays, {copiers} copy", detector.submit, **more)
        upload.copy_all = copy_all
        told("FrameDetector", FrameDetector(detector), **more)
        if detector.takes_yuv and model == MODELS[-1]:
            told("1080p planes, host", detector.submit, hd_planes(batch, "cpu"), **more)
            told("1080p planes, device", detector.submit, hd_planes(batch, device), **more)
            on_device = [torch.from_numpy(image).to(device) for image in images]
            told("tensors on the device", detector.submit, on_device, **more)


# Parts


class Clock:
    """Adds up what calls take."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                self.seconds[name] += time.perf_counter() - began

        return timed

    @contextlib.contextmanager
    def on(self, owner: Any, method: str, name: str) -> Iterator[None]:
        before = getattr(owner, method)
        setattr(owner, method, self.around(name, before))
        try:
            yield
        finally:
            setattr(owner, method, before)


def split(device: str) -> None:
    from ssd_core import found
    from ssd_core.runners import cuda as cuda_runner, plane_upload as upload
    from worker.pipeline import detection

    seconds, batches = (0.6, (64, 16)) if device == "cuda" else (0.1, (2,))
    for batch, model in itertools.product(batches, MODELS):
        detector = loaded(model, device)
        images = images_of(model, batch)
        clock = Clock()
        with contextlib.ExitStack() as stack:
            for owner, method, name in (
                (upload, "copy_all", "copy to pinned memory"),
                (upload.Upload, "start", "all of Upload.start"),
                (upload.Upload, "convert_into", "start conversion"),
                (cuda_runner._Program, "run", "start graph"),
                (cuda_runner._Slot, "take", "start copy home"),
                (torch.cuda.Event, "synchronize", "wait for the device"),
                (cuda_runner, "unpacked", "unpack"),
                (cuda_runner.CudaRunner, "submit", "all of CudaRunner.submit"),
                (found.Found, "per_image", "per image"),
                (detection, "rounded", "round"),
                (detection.FrameDetector, "_rounded", "all of rounding"),
                (detection.FrameDetector, "__call__", "all of FrameDetector()"),
            ):
                stack.enter_context(clock.on(owner, method, name))
            rate = pipelined(detection.FrameDetector(detector), images, seconds)
        done = (rate * seconds + 2) * batch
        for name, total in clock.seconds.items():
            note("split", name, model=model, batch=batch, us_per_image=total / done * 1e6)


def events(device: str) -> None:
    if device != "cuda":
        return
    for blocking, cycles in itertools.product((False, True), (200_000, 2_000_000, 100_000_000)):
        event = torch.cuda.Event(blocking=blocking)
        cpu, wall = [], []
        for _ in range(5):
            torch.cuda._sleep(cycles)
            event.record()
            began_cpu, began = time.thread_time(), time.perf_counter()
            event.synchronize()
            cpu.append(time.thread_time() - began_cpu)
            wall.append(time.perf_counter() - began)
        note(
            "events",
            "blocking" if blocking else "spinning",
            cycles=cycles,
            wait_ms=mean(wall) * 1e3,
            core_share=mean(cpu) / mean(wall),
        )


def buckets(device: str) -> None:
    from ssd_core.runners.cuda import bucket

    if device != "cuda":
        return
    from cuda_timing import cuda_seconds

    sizes = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64]
    for model in MODELS:
        runner = loaded(model, device)._runner
        took: dict[int, float] = {}
        for size in reversed(sizes):
            runner._programs.pop(size, None)
            torch.cuda.synchronize()
            reserved, began = torch.cuda.memory_reserved(), time.perf_counter()
            with torch.inference_mode():
                program = runner._program(size)
            torch.cuda.synchronize()
            capture_ms = (time.perf_counter() - began) * 1e3
            grown = (torch.cuda.memory_reserved() - reserved) / 2**20
            with torch.cuda.stream(runner._stream):
                took[size] = cuda_seconds(program.run)
            note(
                "buckets", "size", model=model, batch=size, device_ms=took[size] * 1e3,
                capture_ms=capture_ms, reserved_mib=grown,
            )  # fmt: skip
        ways: dict[str, Callable[[int], int]] = {
            "powers of two": lambda images: 1 << (images - 1).bit_length(),
            "and halves between": bucket,
            "and quarters between": lambda images: next(s for s in sizes if s >= images),
        }
        for (name, way), most in itertools.product(ways.items(), (16, 64)):
            cost = mean(took[way(images)] / images for images in range(1, most + 1))
            note("buckets", name, model=model, batch=most, device_ms_per_image=cost * 1e3)


# Decoding


def in_a_process(order: str) -> None:
    """Run a decoding part on its own, and keep the rows that it prints."""
    command = [sys.executable, __file__, "--decoding", order]
    limit = max(min(DECODING_SECONDS, RUN.ends_at - time.monotonic()), 1)
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as process,
    ):
        timer = threading.Timer(limit, process.kill)
        timer.start()
        for line in process.stdout or ():
            if line.startswith("{"):
                row = json.loads(line)
                keep_row(row.pop("part"), row.pop("variant"), **row)
        process.wait()
        timer.cancel()
        said.seek(0)
        if process.returncode:
            failed = f"exit code {process.returncode}: {said.read()[-600:]}"
            keep_row("decoding", order, failed=failed)


def tell(variant: str, **values: Any) -> None:
    print(json.dumps({"part": "decoding", "variant": variant, **values}), flush=True)


def decoding(order: str) -> None:
    """In a process of its own; prints a row of JSON per line."""
    try:
        from worker.sources import capabilities
    except ImportError as error:
        tell(order, result=f"left out: {error}")
        return
    driver = None
    with contextlib.suppress(OSError):
        driver = ctypes.CDLL("libcuda.so.1")
    for library in capabilities.DRIVER_LIBRARIES:
        try:
            ctypes.CDLL(library)
            tell(library, result="there")
        except OSError as error:
            tell(library, result=str(error))
    if order == "torch_first":
        if torch.cuda.is_available():
            torch.zeros(1, device="cuda")
            tell("torch first: context flags", result=str(context_state(driver)))
            tell("torch first: claim_gpu", result=capabilities.claim_gpu(0) or "claimed")
            # CU_CTX_SCHED_BLOCKING_SYNC, as FFmpeg asks for
            code = driver.cuDevicePrimaryCtxSetFlags_v2(0, 4) if driver else None
            tell("torch first: flags set", code=code, result=str(context_state(driver)))
            tell("torch first: claim_gpu then", result=capabilities.claim_gpu(0) or "claimed")
        return
    reason = capabilities.claim_gpu(0)
    tell("FFmpeg first: claim_gpu", result=reason or "claimed", flags=str(context_state(driver)))
    if reason:
        return
    tell("FFmpeg first: a picture", result=capabilities.why_no_gpu_decoding(0) or "decoded")
    torch.zeros(1, device="cuda")
    again = capabilities.claim_gpu(0)
    tell("after PyTorch: claim_gpu", result=again or "claimed", flags=str(context_state(driver)))
    if again:
        return
    for threads in (1, 8, 32):
        decode_rate(threads, "left there")
    compare_planes()
    for threads in (1, 8):
        decode_rate(threads, "copied after a wait")


def context_state(driver: Any) -> tuple[int, int] | None:
    """(flags, whether it is active) of the primary context of GPU 0."""
    if driver is None:
        return None
    flags, active = ctypes.c_uint(), ctypes.c_int()
    driver.cuInit(0)
    driver.cuDevicePrimaryCtxGetState(0, ctypes.byref(flags), ctypes.byref(active))
    return flags.value, active.value


def hd_file() -> Path:
    from clips import hd_clip

    return hd_clip()


def compare_planes() -> None:
    """What DLPack gives, and whether a GPU decodes the same planes as the CPU."""
    from worker.sources.decoding import DecodedPictures
    from worker.sources.planes import PlaneReader

    for path in (ROOT / "samples" / "walkway.mp4", hd_file()):
        reader, wrong, worst, frames, image = PlaneReader(), 0, 0, 0, None
        pictures = zip(DecodedPictures(path, 0), DecodedPictures(path), strict=False)
        for on_gpu, on_cpu in itertools.islice(pictures, 60):
            image, expected = (reader.convert(decoded.picture) for decoded in (on_gpu, on_cpu))
            frames += 1
            for name in "yuv":
                found = torch.as_tensor(getattr(image, name)).cpu().numpy().astype(int)
                difference = np.abs(found - getattr(expected, name)).max()
                wrong += difference > 0
                worst = max(worst, int(difference))
        tell(
            "planes", file=path.name, frames=frames, planes_that_differ=int(wrong), worst=worst,
            on=str(getattr(image.y, "device", "host")) if image else "",
            y=str((image.y.shape, plane_strides_of(image.y))) if image else "",
            u=str((image.u.shape, plane_strides_of(image.u))) if image else "",
        )  # fmt: skip


def plane_strides_of(plane: Any) -> Any:
    return plane.stride() if isinstance(plane, torch.Tensor) else plane.strides


def decode_rate(threads: int, keep: str, seconds: float = 1.5) -> None:
    """Frames a second, and seconds of Python per frame that no other thread can use."""
    from worker.sources.decoding import DecodedPictures
    from worker.sources.planes import PlaneReader

    path, stop = hd_file(), threading.Event()
    counts, converting = [0] * threads, [0.0] * threads

    def copied(image: Any) -> Any:
        torch.cuda.default_stream().synchronize()
        planes = image.y.clone(), image.u.clone(), image.v.clone()
        torch.cuda.current_stream().synchronize()
        return planes

    def work(index: int) -> None:
        reader = PlaneReader()
        waiting: list[Any] = []  # as many as a camera has under way
        while not stop.is_set():
            for picture in DecodedPictures(path, 0):
                began = time.perf_counter()
                image = reader.convert(picture.picture)
                waiting.append(image if keep == "left there" else copied(image))
                del waiting[:-4]
                converting[index] += time.perf_counter() - began
                counts[index] += 1
                if stop.is_set():
                    break

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    give_up = time.monotonic() + OPENING_SECONDS
    while not all(counts) and time.monotonic() < give_up:
        time.sleep(0.05)
    time.sleep(0.3)  # the decoders' memory is there
    before, cpu, began = sum(counts), time.process_time(), time.perf_counter()
    time.sleep(seconds)
    frames, took = sum(counts) - before, time.perf_counter() - began
    cores = (time.process_time() - cpu) / took
    stop.set()
    for worker in workers:
        worker.join(20)
    torch.cuda.synchronize()
    tell(
        f"{threads} threads, {keep}", frames_per_second=round(frames / took, 1),
        threads_that_decode=sum(map(bool, counts)), cores=round(cores, 2),
        us_cpu_per_frame=round(cores * took / max(frames, 1) * 1e6, 1),
        us_convert=round(sum(converting) / max(sum(counts), 1) * 1e6, 1),
    )  # fmt: skip


if __name__ == "__main__":
    main()
