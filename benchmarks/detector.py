"""The detectors' images a second, against torchvision's `ssd300_vgg16` and `ssdlite320`.

    python benchmarks/detector.py [--device cuda] [--quick] [--growth]

Images are frames of vtest.avi, scaled to the network's size, as uint8 arrays in host memory; the
result is boxes, scores and labels in host memory. torchvision's models get the same arrays and turn
them into the float tensors they ask for, on the device. Of each batch size all take part in turn,
in one process; results are medians. Models without weights in the package are untrained, with heads
that give about as many candidates as trained ones (peers/untrained.py); so are torchvision's.

torchvision runs as it is (fp32), under autocast in bf16, and compiled: backbone and heads, by
`torch.compile`, at one batch size only, because each takes half a minute to compile.

- `share_of_ceiling`: images/s times the FLOP of one image's convolutions (two per multiply-add, as
  torch.utils.flop_counter counts them) over the rate of a large square matmul in the same run and
  the same precision
- on CUDA `gpu_images_per_second`: network and decode_nms on inputs that lie on the device, as one
  captured graph; and `postprocess_share`: decode_nms' part of that time, captured alone
- --growth: memory after the first batches and after 10,000 more
"""

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import av
import numpy as np
import torch
from common import (
    RESULTS,
    VIDEO,
    alternate,
    finish,
    introduce,
    keep,
    parser,
    versions,
    wall_seconds,
)
from peers.untrained import SSD300_CANDIDATES, settle_heads, torchvision_model
from processes import resident_bytes
from torch.utils.flop_counter import FlopCounterMode

from ssd_core import Detector, build_model
from ssd_core.device import choose_device, choose_precision
from ssd_core.models.zoo import MODELS, get_spec
from ssd_core.ops import decode_nms
from ssd_core.runners.cuda import same_algorithms

PEER_OF = {
    "ssd300_vgg16": "ssd300_vgg16",
    "ssd_mobilenet_v2_oid": "ssdlite320_mobilenet_v3_large",
}
BATCHES = {
    ("cpu", "ssd_mobilenet_v2_oid"): (1, 8, 32, 128),
    ("cpu", "ssd300_vgg16"): (1, 4),
    ("cpu", "ssd512_vgg16"): (1,),
}
CUDA_BATCHES = (1, 8, 32, 64, 128)
MOST_OF_CPU_PEERS = {"ssd_mobilenet_v2_oid": 8, "ssd300_vgg16": 1}
"""Larger batches than this take torchvision seconds on a CPU, and no less time per image."""
COMPILED_BATCHES = {"cpu": 1, "cuda": 64}
MATMUL_SIZE = {"cpu": 2048, "cuda": 8192}
GROWTH_BATCH, GROWTH_WARM_UP = 4, 100


def main() -> None:
    """Measure every model, print and keep the results."""
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=1.0, help="for each candidate of a case")
    options.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    options.add_argument("--batches", type=int, nargs="+", help="instead of the default ones")
    options.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    options.add_argument("--no-compile", action="store_true", help="leave compiled peers out")
    options.add_argument("--growth", action="store_true", help="look for growing memory, too")
    options.add_argument("--growth-batches", type=int, default=10_000)
    chosen = options.parse_args()
    if chosen.quick:
        chosen.models, chosen.seconds, chosen.no_compile = chosen.models[:1], 0.1, True
        chosen.batches, chosen.growth_batches = chosen.batches or [1, 4], 100
    introduce(chosen.device, "torch", "torchvision")
    dtype = choose_precision(chosen.precision, choose_device(chosen.device))
    ceilings = {
        precision: matmul_flops(chosen.device, precision) for precision in {torch.float32, dtype}
    }
    for precision, flops in ceilings.items():
        print(f"matmul {name_of(precision)}: {flops / 1e12:.2f} TFLOP/s", flush=True)
    rows = []
    for row in all_rows(chosen, ceilings):
        print(row, flush=True)
        rows.append(row)
        if not chosen.quick:
            keep(RESULTS / "detector.csv", row, chosen.device)
    growth = {}
    if chosen.growth:
        growth = {"growth": memory_growth(chosen)}
        print(growth["growth"], flush=True)
        if not chosen.quick:
            keep(RESULTS / "memory.csv", growth["growth"], chosen.device)
    finish("detector", chosen.device, **versions("torchvision"), cases=rows, **growth)


def all_rows(
    chosen: argparse.Namespace, ceilings: dict[torch.dtype, float]
) -> Iterator[dict[str, Any]]:
    """The rows of every model and batch size."""
    for name in chosen.models:
        detector = load(name, chosen.device, chosen.precision)
        peer = torchvision_model(PEER_OF[name]).to(chosen.device) if name in PEER_OF else None
        batches = chosen.batches or BATCHES.get((chosen.device, name), CUDA_BATCHES)
        images = frames(detector.spec.image_size, max(batches))
        for batch in batches:
            compiled = not chosen.no_compile and batch == COMPILED_BATCHES[chosen.device]
            shown = images[:batch]
            candidates = [("ours", name, detector.dtype, lambda d=detector, s=shown: d.detect(s))]
            if compiled:
                torch.compiler.reset()
            if compiled and chosen.device == "cuda":
                fast = load(name, chosen.device, chosen.precision, compiled=True)
                detect_fast = lambda d=fast, s=shown: d.detect(s)  # noqa: E731
                candidates.append(("ours compiled", name, fast.dtype, detect_fast))
            if peer is not None and (chosen.device == "cuda" or batch <= MOST_OF_CPU_PEERS[name]):
                candidates += peer_candidates(name, peer, shown, chosen.device, compiled=compiled)
            yield from measure(candidates, detector, batch, chosen, ceilings)


def measure(
    candidates: Sequence[tuple[str, str, torch.dtype, Callable[[], Any]]],
    detector: Detector,
    batch: int,
    chosen: argparse.Namespace,
    ceilings: dict[torch.dtype, float],
) -> Iterator[dict[str, Any]]:
    """One row for each candidate of one batch size."""
    with torch.inference_mode():
        times = alternate(
            [(label, call) for label, _, _, call in candidates], seconds=chosen.seconds
        )
        on_gpu = gpu_figures(detector, batch) if chosen.device == "cuda" else {}
    for label, model, dtype, _ in candidates:
        flop = flop_per_image(model, torchvision=not label.startswith("ours"))
        rate = batch / times[label]
        yield {
            "device": chosen.device,
            "model": model,
            "runner": label,
            "precision": name_of(dtype),
            "batch": batch,
            "images_per_second": round(rate, 1),
            "ours_is_times": round(times[label] / times["ours"], 2),
            "gflop_per_image": round(flop / 1e9, 2),
            "share_of_ceiling": round(rate * flop / ceilings.get(dtype, float("inf")), 3),
            **(on_gpu if label == "ours" else {}),
        }


def load(name: str, device: str, precision: str, *, compiled: bool = False) -> Detector:
    """A detector, untrained where the package has no weights."""
    spec = get_spec(name)
    if spec.weights is not None:
        return Detector.load(name, device=device, precision=precision, compile=compiled)
    torch.manual_seed(0)
    model = build_model(name)
    settle_heads(
        list(model.classification_heads), spec.feature_maps, spec.num_classes, SSD300_CANDIDATES
    )
    torch_device = choose_device(device)
    dtype = choose_precision(precision, torch_device)
    return Detector(model, spec, torch_device, dtype, spec.score_threshold, compile=compiled)


def peer_candidates(
    name: str, peer: Any, images: list[np.ndarray], device: str, *, compiled: bool
) -> list[tuple[str, str, torch.dtype, Callable[[], Any]]]:
    """The model of torchvision in fp32, in bf16 by autocast, and compiled; to host memory."""

    @torch.inference_mode()
    def detect(model: Any, dtype: torch.dtype) -> list[dict[str, Any]]:
        tensors = [
            torch.from_numpy(image).to(device).permute(2, 0, 1).float() / 255 for image in images
        ]
        with torch.autocast(device, torch.bfloat16, enabled=dtype != torch.float32):
            found = model(tensors)
        return [{key: value.cpu() for key, value in image.items()} for image in found]

    candidates = []
    for dtype in (torch.float32, torch.bfloat16):
        label = f"torchvision {name_of(dtype)}"
        candidates.append((label, PEER_OF[name], dtype, lambda d=dtype: detect(peer, d)))
    if compiled:
        fast = torchvision_model(PEER_OF[name]).to(device)
        fast.backbone = torch.compile(fast.backbone, dynamic=False)
        fast.head = torch.compile(fast.head, dynamic=False)
        # On a CPU bf16 is slower than fp32 here, on a GPU faster: compile what has a chance.
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        label = f"torchvision {name_of(dtype)} compiled"
        try:
            detect(fast, dtype)
        except Exception as error:  # for want of a C++ compiler, for example: the others still run
            print(f"{label} is left out: {type(error).__name__}: {str(error)[:200]}")
        else:
            candidates.append((label, PEER_OF[name], dtype, lambda: detect(fast, dtype)))
    return candidates


def gpu_figures(detector: Detector, batch: int) -> dict[str, float]:
    """Network and decode_nms on the device alone, each captured as a graph."""
    from cuda_timing import captured, cuda_seconds

    spec = detector.spec
    default_boxes = spec.default_boxes().to(detector.device)
    settings = spec.decode_settings(detector.score_threshold)
    x = detector.preprocess(frames(spec.image_size, batch))

    def post_process(outputs: tuple[torch.Tensor, torch.Tensor]) -> Any:
        return decode_nms(*outputs, default_boxes, settings)

    network = detector._runner.network
    outputs = network(x)
    with same_algorithms():
        both = captured(lambda: post_process(network(x)))
    alone = captured(lambda: post_process(outputs))
    times = alternate([("both", both), ("alone", alone)], seconds=0.3, clock=cuda_seconds)
    return {
        "gpu_images_per_second": round(batch / times["both"], 1),
        "postprocess_share": round(times["alone"] / times["both"], 4),
    }


def memory_growth(chosen: argparse.Namespace) -> dict[str, Any]:
    """Memory after some batches and after many more."""
    detector = load(chosen.models[0], chosen.device, chosen.precision)
    images = frames(detector.spec.image_size, GROWTH_BATCH)
    for _ in range(3 if chosen.quick else GROWTH_WARM_UP):
        detector.detect(images)
    before = memory_mib(chosen.device)
    for _ in range(chosen.growth_batches):
        detector.detect(images)
    after = memory_mib(chosen.device)
    row: dict[str, Any] = {
        "device": chosen.device,
        "model": chosen.models[0],
        "batch": GROWTH_BATCH,
        "batches": chosen.growth_batches,
    }
    for name, value in before.items():
        row |= {f"{name}_mib": value, f"{name}_growth_mib": round(after[name] - value, 2)}
    return row


def memory_mib(device: str) -> dict[str, float]:
    """Resident memory of this process, and on CUDA what the allocator handed out and holds."""
    found = {"rss": round(resident_bytes(os.getpid()) / 2**20, 1)}
    if device == "cuda":
        torch.cuda.synchronize()
        found["allocated"] = round(torch.cuda.memory_allocated() / 2**20, 2)
        found["reserved"] = round(torch.cuda.memory_reserved() / 2**20, 2)
    return found


def frames(size: tuple[int, int], count: int) -> list[np.ndarray]:
    """The first frames of vtest.avi, (H, W, 3) RGB."""
    height, width = size
    found = []
    with av.open(str(VIDEO)) as container:
        for picture in container.decode(video=0):
            found.append(picture.to_ndarray(format="rgb24", width=width, height=height))
            if len(found) == count:
                break
    return found


def flop_per_image(name: str, *, torchvision: bool) -> float:
    """Of the convolutions, counted on the meta device."""
    key = name, torchvision
    if key not in _flop:
        with torch.device("meta"):
            if torchvision:
                model = torchvision_model(name)
                size = model.transform.fixed_size[::-1]
            else:
                model, size = build_model(name).eval(), get_spec(name).image_size
            with FlopCounterMode(display=False) as counter, torch.inference_mode():
                x = torch.empty(1, 3, *size)
                model.head(list(model.backbone(x).values())) if torchvision else model(x)
        _flop[key] = counter.get_total_flops()
    return _flop[key]


_flop: dict[tuple[str, bool], float] = {}


def matmul_flops(device: str, dtype: torch.dtype) -> float:
    """FLOP a second of a square matmul: the most that a network could reach."""
    size = MATMUL_SIZE[device]
    before = torch.get_float32_matmul_precision()
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as convolutions have it anyway
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    clock = wall_seconds
    if device == "cuda":
        from cuda_timing import cuda_seconds

        clock = cuda_seconds
    times = alternate([("matmul", lambda: a @ b)], seconds=0.5, clock=clock)
    torch.set_float32_matmul_precision(before)
    return 2 * size**3 / times["matmul"]


def name_of(dtype: torch.dtype) -> str:
    """bf16 and so on."""
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]


if __name__ == "__main__":
    main()
