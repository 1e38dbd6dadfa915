"""Ways to launch the kernels of decode_nms, in one table.

    python benchmarks/gpu/decode_nms_variants.py [--device cpu] [--seconds 75]

A variant is a set of values for the constants of `ssd_core/ops/decode_nms_triton.py`; "no bound"
computes every score, as the kernels did before they had an upper bound. Head outputs are those of
`benchmarks/decode_nms.py`: 8,732 boxes, 91 classes, sparse and dense. What today's constants find
is compared with the reference on the CPU (scores in fp64), and every variant's detections with
those, bit by bit.

Each time is the median of captured graphs between two events. "cold": the graphs take turns over
enough sets of logits that none is in the L2 cache when it is read; "warm": one set again and again,
which is what a small batch finds right after the network. In the same run: the bandwidth of a copy
and of a sum, torchvision's time, and each kernel's own. Results go to `decode_nms_variants.csv` and
`decode_nms_kernels.csv` in the folder OUT.

On a CPU it is a dry run of small sizes in Triton's interpreter (TRITON_INTERPRET=1): its times mean
nothing.
"""

import argparse
import csv
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import hardware, introduce, wall_seconds
from decode_nms import COPY_BYTES, SPEC, bind_torchvisions, copy_bandwidth
from head_outputs import HeadOutputs, candidates_per_image, dense, sparse

from ssd_core.ops import DecodedDetections, decode_nms_reference, decode_nms_triton as op

OUT = Path(os.environ.get("OUT", Path(__file__).parents[1] / "results" / "gpu"))
COMPILERS = 14
BATCH = 32
COLD_BYTES = 256 * 2**20
"""Of logits in turn: five times the L2 cache of an H100."""
MOST_SETS = 8
LEAST_AGREEMENT = {"sparse": 0.98, "dense": 0.9}
"""With the reference: dense scores lie so close that rounding decides which are the best."""

VARIANTS: dict[str, dict[str, Any]] = {
    "today": {"SHORT_LIST": op.SHORT_LIST},
    "no bound": {"_least_logit": lambda score_threshold: -3e38},
    **{f"logits {n}": {"LOGITS_PER_BLOCK": n} for n in (512, 2048, 4096)},
    **{f"exact {n}": {"EXACT_LOGITS": n} for n in (256, 1024)},
    **{f"keys {n}": {"KEYS_PER_WARP": n} for n in (64, 256, 512)},
    **{f"selected {n}": {"SELECTED_PER_WARP": n} for n in (128, 512)},
    "one launch": {"SHORT_LIST": op.MAX_SORTED},
    **{f"short {n}": {"SHORT_LIST": n} for n in (32, 128)},
    **{f"merge warps {n}": {"MERGE_WARPS": n} for n in (2, 8, 16)},
}
OF_DENSE_ONLY = ("keys", "selected")
"""Variants of what only long lists run into, but for the merging."""


class Case(NamedTuple):
    """What is timed."""

    kind: str
    dtype: torch.dtype
    batch: int
    score_threshold: float
    cold: bool


def main() -> None:
    """Compile, compare and time every variant; print a table and write two CSV files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--seconds", type=float, default=75, help="what is left then is skipped")
    chosen = parser.parse_args()
    give_up = time.monotonic() + chosen.seconds
    introduce(chosen.device, "torch", "torchvision", "triton")
    if chosen.device == "cuda":
        compile_all()
    table = Table(chosen.device, Outputs(chosen.device), give_up)
    with torch.inference_mode():
        for kind in ("sparse", "dense"):
            table.compare_with_reference(kind)
        table.report_ceilings()
        for case in cases():
            table.time("today", case)
        for kind in ("sparse", "dense"):
            for name in VARIANTS:
                if kind == "dense" or not name.startswith(OF_DENSE_ONLY):
                    table.time(name, Case(kind, torch.float32, BATCH, 0.01, cold=True))
        if chosen.device == "cuda":
            for kind in ("sparse", "dense"):
                table.time_kernels(Case(kind, torch.float32, BATCH, 0.01, cold=True))
            for kind in ("sparse", "dense"):
                table.time_torchvision(Case(kind, torch.float32, BATCH, 0.01, cold=False))
    table.finish()


def cases() -> list[Case]:
    """What today's constants are timed on."""
    found = [
        Case(kind, dtype, BATCH, 0.01, cold=True)
        for kind in ("sparse", "dense")
        for dtype in (torch.float32, torch.bfloat16)
    ]
    for dtype in (torch.float32, torch.bfloat16):
        found.append(Case("sparse", dtype, BATCH, 0.4, cold=True))
        found.append(Case("sparse", dtype, 64, 0.01, cold=True))
        found.append(Case("sparse", dtype, 8, 0.01, cold=False))
        found.append(Case("sparse", dtype, 1, 0.01, cold=False))
    found.append(Case("dense", torch.float32, 1, 0.01, cold=False))
    return found


class Outputs:
    """Head outputs on the device, made once for each kind."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.spec = SPEC
        if device == "cpu":
            self.spec = replace(
                SPEC,
                feature_maps=((5, 5),),
                cells=None,
                box_sizes=SPEC.box_sizes[-1:],
                labels=SPEC.labels[:7],
                candidates_per_class=80,
                max_detections=20,
            )
        made = 2 if device == "cpu" else BATCH
        self._made = {
            "sparse": sparse(self.spec, made).to(device, torch.float32),
            "dense": dense(self.spec, made).to(device, torch.float32),
        }

    def get(self, kind: str, dtype: torch.dtype, batch: int, turn: int = 0) -> HeadOutputs:
        """Images of a kind in an order that depends on ``turn``, in memory of their own."""
        made = self._made[kind]
        size = len(made.cls_logits)
        image = (torch.arange(min(batch, 2 * size), device=self.device) + turn) % size
        found = HeadOutputs(
            made.bbox_regression[image], made.cls_logits[image], made.default_boxes_cxcywh
        )
        return found.to(self.device, dtype)

    def bind(self, outputs: HeadOutputs, score_threshold: float) -> Callable[[], DecodedDetections]:
        """The kernels on these outputs."""
        return lambda: op.decode_nms_triton(*self.arguments(outputs, score_threshold))

    def arguments(self, outputs: HeadOutputs, score_threshold: float) -> tuple[Any, ...]:
        """Of decode_nms."""
        return (
            outputs.bbox_regression,
            outputs.cls_logits,
            outputs.default_boxes_cxcywh,
            self.spec.decode_settings(score_threshold),
        )


class Table:
    """Times cases until the time is up, and keeps the rows."""

    def __init__(self, device: str, outputs: Outputs, give_up: float) -> None:
        self._device, self._outputs, self._give_up = device, outputs, give_up
        self._rows: list[dict[str, Any]] = []
        self._kernels: list[dict[str, Any]] = []
        self._skipped = 0
        self._read_bytes_a_second = 0.0
        self._wrong: list[str] = []

    def compare_with_reference(self, kind: str) -> None:
        """Two images, on the CPU."""
        outputs = self._outputs.get(kind, torch.float32, 2)
        found = self._outputs.bind(outputs, 0.01)()
        arguments = self._outputs.arguments(outputs.to("cpu", torch.float32), 0.01)
        share = agreement(found, decode_nms_reference(*arguments))
        print(f"{kind}: {share:.4f} of the detections agree with the reference")
        if share < LEAST_AGREEMENT[kind]:
            self._wrong.append(f"{kind}: only {share:.4f} agree with the reference")

    def report_ceilings(self) -> None:
        """The bandwidth of a copy, and of reading alone."""
        copied = copy_bandwidth(self._device)
        tensor = torch.zeros(COPY_BYTES // 4, device=self._device)
        seconds = median(seconds_each(self._device, [tensor.sum], 0.2))
        self._read_bytes_a_second = max(copied, tensor.nbytes / seconds)
        print(f"copy {copied / 1e9:.0f} GB/s, sum {tensor.nbytes / seconds / 1e9:.0f} GB/s")

    def time(self, name: str, case: Case) -> None:
        """One row: a variant's time, after its detections have been compared with today's."""
        if time.monotonic() > self._give_up:
            self._skipped += 1
            return
        try:
            self._time(name, case)
        except Exception as error:  # the other variants are worth knowing all the same
            self._wrong.append(f"{name}, {case}: {type(error).__name__}: {error}"[:300])
            print(self._wrong[-1], flush=True)

    def _time(self, name: str, case: Case) -> None:
        outputs = self._outputs.get(case.kind, case.dtype, case.batch)
        expected = self._outputs.bind(outputs, case.score_threshold)()
        with mock.patch.multiple(op, **VARIANTS[name]):
            found = self._outputs.bind(outputs, case.score_threshold)()
            if not all(torch.equal(*pair) for pair in zip(found, expected, strict=True)):
                self._wrong.append(f"{name}, {case}: other detections than today's")
            replays = self._replays(case)
            times = seconds_each(self._device, replays, 0.1)
        limit = outputs.cls_logits.nbytes / self._read_bytes_a_second
        row = {
            "variant": name,
            "kind": case.kind,
            "dtype": str(case.dtype).removeprefix("torch."),
            "batch": case.batch,
            "score_threshold": case.score_threshold,
            "cache": "cold" if case.cold else "warm",
            "us": round(median(times) * 1e6, 1),
            "us_least": round(min(times) * 1e6, 1),
            "us_to_read": round(limit * 1e6, 1),
            "candidates_per_image": round(candidates_per_image(outputs, case.score_threshold)),
        }
        self._rows.append(row)
        print(", ".join(str(value) for value in row.values()), flush=True)

    def time_kernels(self, case: Case) -> None:
        """Each kernel's own time, as the profiler has it."""
        replays = self._replays(case)
        activities = [torch.profiler.ProfilerActivity.CUDA]
        rounds = 8
        with torch.profiler.profile(activities=activities) as profile:
            for _ in range(rounds):
                for replay in replays:
                    replay()
            torch.cuda.synchronize()
        for event in profile.key_averages():
            row = {
                "kind": case.kind,
                "kernel": event.key[:60],
                "launches_per_call": round(event.count / rounds / len(replays), 2),
                "us": round(event.self_device_time_total / event.count, 2),
            }
            if event.self_device_time_total:
                self._kernels.append(row)
                print(", ".join(str(value) for value in row.values()), flush=True)

    def time_torchvision(self, case: Case) -> None:
        """What torchvision takes for the same outputs."""
        call = bind_torchvisions(self._outputs.get(case.kind, case.dtype, case.batch))
        seconds = min(seconds_each(self._device, [call], 0.0))
        name = "float32"
        ours = [
            row["us"]
            for row in self._rows
            if (row["variant"], row["kind"], row["dtype"]) == ("today", case.kind, name)
            and (row["batch"], row["score_threshold"]) == (case.batch, case.score_threshold)
        ]
        times = f"{seconds * 1e6 / min(ours):.0f} times" if ours else "not compared"
        print(f"{case.kind}: torchvision {seconds * 1e6:.0f} us, {times}")
        self._rows.append(
            {"variant": "torchvision", "kind": case.kind, "dtype": name, "batch": case.batch}
            | {"score_threshold": case.score_threshold, "us": round(seconds * 1e6, 1)}
        )

    def finish(self) -> None:
        """Write the files; exit with an error if detections were wrong."""
        OUT.mkdir(parents=True, exist_ok=True)
        for name, rows in (
            ("decode_nms_variants", self._rows),
            ("decode_nms_kernels", self._kernels),
        ):
            if rows:
                machine = {"hardware": hardware(self._device), "torch": torch.__version__}
                with (OUT / f"{name}.csv").open("w", newline="") as file:
                    writer = csv.DictWriter(file, [*machine, *rows[0]])
                    writer.writeheader()
                    writer.writerows(machine | row for row in rows)
        if self._skipped:
            print(f"{self._skipped} rows skipped: the time was up")
        if self._wrong:
            sys.exit("\n".join(self._wrong))

    def _replays(self, case: Case) -> list[Callable[[], Any]]:
        """Calls that take turns over sets of logits, each a captured graph on CUDA."""
        one = self._outputs.get(case.kind, case.dtype, case.batch)
        sets = min(MOST_SETS, -(-COLD_BYTES // one.cls_logits.nbytes)) if case.cold else 1
        calls = []
        for turn in range(sets):
            outputs = self._outputs.get(case.kind, case.dtype, case.batch, turn)
            calls.append(self._outputs.bind(outputs, case.score_threshold))
        if self._device == "cpu":
            return calls[:1]
        from cuda_timing import captured

        return [captured(call) for call in calls]


def seconds_each(device: str, calls: Sequence[Callable[[], Any]], seconds: float) -> list[float]:
    """Seconds per call of rounds over all calls, for about ``seconds``, at least three rounds."""

    def once() -> None:
        for call in calls:
            call()

    clock = wall_seconds
    if device == "cuda":
        from cuda_timing import cuda_seconds

        clock = cuda_seconds
        clock(once)
    times: list[float] = []
    started = time.monotonic()
    while len(times) < (3 if device == "cuda" else 1) or (
        device == "cuda" and time.monotonic() < started + seconds
    ):
        times.append(clock(once) / len(calls))
    return times


def agreement(found: DecodedDetections, expected: DecodedDetections) -> float:
    """Share of the expected detections that were found: box, label and score."""
    same = of_all = 0
    for image in range(len(expected.count)):
        mine, other = (as_rows(one, image) for one in (found, expected))
        of_all += max(len(mine), len(other))
        if len(mine) and len(other):
            near = (mine[:, None] - other[None]).abs().amax(dim=-1) < 1e-4
            same += int(near.any(dim=0).sum())
    return same / max(of_all, 1)


def as_rows(found: DecodedDetections, image: int) -> Tensor:
    """(count, 6): corners, score, label."""
    count = int(found.count[image])
    columns = (found.boxes[image], found.scores[image, :, None], found.labels[image, :, None])
    return torch.cat([column[:count].cpu().float() for column in columns], dim=1)


def compile_all() -> None:
    """Fill Triton's cache in parallel: one process for each variant."""
    started = time.monotonic()
    jobs = [(name, dtype) for name in VARIANTS for dtype in (torch.float32, torch.bfloat16)]
    with ProcessPoolExecutor(COMPILERS, mp_context=get_context("spawn")) as pool:
        list(pool.map(compile_one, *zip(*jobs, strict=True)))
    print(f"compiled in {time.monotonic() - started:.0f} s", flush=True)


def compile_one(name: str, dtype: torch.dtype) -> None:
    """One variant, on one image of zeros."""
    torch.set_num_threads(1)
    default_boxes = SPEC.default_boxes()
    size = len(default_boxes)
    outputs = HeadOutputs(
        torch.zeros(1, size, 4), torch.zeros(1, size, SPEC.num_classes), default_boxes
    ).to("cuda", dtype)
    with mock.patch.multiple(op, **VARIANTS[name]):
        op.decode_nms_triton(
            outputs.bbox_regression,
            outputs.cls_logits,
            outputs.default_boxes_cxcywh,
            SPEC.decode_settings(0.5),
        )
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
