"""Fills Triton's cache with the kernels of every model, each in a process of its own.

    PYTHONPATH=benchmarks python benchmarks/gpu/warm.py [--device cuda] [--quick]

Compiling takes a process one core and seconds a kernel; what runs afterwards finds them compiled.
"""

import time
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context

from common import introduce, parser
from detector import GROWTH_BATCH, frames, load

JOBS = [
    ("ssd_mobilenet_v2_oid", "bf16"),
    ("ssd_mobilenet_v2_oid", "fp32"),
    ("ssd300_vgg16", "bf16"),
    ("ssd512_vgg16", "bf16"),
]
"""Model and precision: what the checks and the benchmarks run."""


def main() -> None:
    """Run every job at the same time, tell how long each took."""
    options = parser(__doc__)
    chosen = options.parse_args()
    introduce(chosen.device, "torch", "triton")
    jobs = JOBS[:1] if chosen.quick else JOBS
    with ProcessPoolExecutor(len(jobs), mp_context=get_context("spawn")) as pool:
        times = pool.map(warm, *zip(*jobs, strict=True), repeat(chosen.device))
        for (name, precision), seconds in zip(jobs, times, strict=True):
            print(f"{name} {precision}: {seconds:.1f} s", flush=True)


def warm(name: str, precision: str, device: str) -> float:
    """Detect once with one model; how many seconds that took, imports aside."""
    began = time.monotonic()
    detector = load(name, device, precision)
    detector.detect(frames(detector.spec.image_size, GROWTH_BATCH))
    return time.monotonic() - began


if __name__ == "__main__":
    main()
