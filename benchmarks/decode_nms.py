"""decode_nms against torchvision's `SSD.postprocess_detections` on the same head outputs.

    python benchmarks/decode_nms.py [--device cuda] [--quick]

SSD300: 8,732 default boxes, 91 classes, softmax; score above 0.01, the best 400 per class, NMS at
0.45, 200 detections: torchvision's own settings of `ssd300_vgg16`. Sparse and dense outputs are
made as head_outputs.py says. Both get the same fp32 tensors, which lie on the device already, and
leave their results there; they run alternately in one process, and each result is the median.
Before that, their detections are compared. decode_nms is timed on bf16 outputs too, which it reads
as they are.

On a CUDA device times are between events on the stream; decode_nms is timed called and as a
captured CUDA graph, which torchvision's, with a host synchronisation per class, cannot be.

`share_of_limit` is the time that reading the logits once would take, at the bandwidth that a copy
of a large tensor reaches in the same run, over the time taken (of the graph on CUDA). A batch whose
logits fit into a cache is read from there, as right after the network.
"""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from common import RESULTS, alternate, finish, introduce, keep, parser, wall_seconds
from head_outputs import HeadOutputs, candidates_per_image, dense, sparse
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.ssd import SSD

from ssd_core.box_coder import BOX_WEIGHTS, cxcywh_to_xyxy
from ssd_core.models.zoo import get_spec
from ssd_core.ops import decode_nms

SPEC = get_spec("ssd300_vgg16")
SCORE_THRESHOLD = 0.01
KINDS = {"sparse": sparse, "dense": dense}
COPY_BYTES = 1 << 29
LEAST_AGREEMENT = 0.98
"""NMS of all classes at once, shifted apart, rounds IoUs at the threshold in its own way."""


def main() -> None:
    """Time every case, print and keep the results."""
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=1.5, help="for each candidate of a case")
    options.add_argument("--batches", type=int, nargs="+", help="instead of the default ones")
    chosen = options.parse_args()
    device, seconds = chosen.device, 0.1 if chosen.quick else chosen.seconds
    introduce(device, "torch", "torchvision", "triton")
    bandwidth = copy_bandwidth(device)
    print(f"copy: {bandwidth / 1e9:.1f} GB/s")
    rows = []
    with torch.inference_mode():
        for kind, batch in cases(device, chosen.quick, chosen.batches):
            outputs = KINDS[kind](SPEC, batch).to(device, torch.float32)
            for dtype in (torch.float32, torch.bfloat16):
                row = {"device": device, "kind": kind, "batch": batch}
                compare = is_compared(device, kind, batch, dtype)
                row |= measure(outputs.to(device, dtype), bandwidth, seconds, compare=compare)
                print(row, flush=True)
                rows.append(row)
                if not chosen.quick:
                    keep(RESULTS / "decode_nms.csv", row, device)
    finish("decode_nms", device, copy_gb_per_second=round(bandwidth / 1e9, 1), cases=rows)


def cases(device: str, quick: bool, batches: list[int] | None) -> list[tuple[str, int]]:
    """(Kind, batch) pairs; on a CPU fewer, to stay below a minute."""
    if quick:
        return [("sparse", 1), ("sparse", 4), ("dense", 1)]
    of_kind = dict.fromkeys(KINDS, batches or (1, 8, 32, 128))
    if batches is None and device == "cpu":
        of_kind["dense"] = (1, 8, 32)
    return [(kind, batch) for kind, sizes in of_kind.items() for batch in sizes]


def is_compared(device: str, kind: str, batch: int, dtype: torch.dtype) -> bool:
    """Whether torchvision's takes part: not on bf16, and not where a dense batch takes it seconds.

    It goes through the images one by one, so that a batch of 1 tells.
    """
    return dtype == torch.float32 and (device == "cuda" or kind == "sparse" or batch == 1)


def measure(
    outputs: HeadOutputs, bandwidth: float, seconds: float, *, compare: bool
) -> dict[str, Any]:
    """One case, with or without torchvision's."""
    device = outputs.cls_logits.device.type
    batch = len(outputs.cls_logits)
    ours = bind_ours(outputs)
    candidates: list[tuple[str, Callable[[], Any]]] = [("ours", ours)]
    clock: Callable[[Callable[[], Any]], float] = wall_seconds
    if device == "cuda":
        from cuda_timing import captured, cuda_seconds

        candidates.append(("graph", captured(ours)))
        clock = cuda_seconds
    if compare:
        torchvisions = bind_torchvisions(outputs)
        check_agreement(ours(), torchvisions())
        candidates.append(("torchvision", torchvisions))
    times = alternate(candidates, seconds=seconds, clock=clock)
    best = times.get("graph", times["ours"])
    limit = outputs.cls_logits.nbytes / bandwidth
    row: dict[str, Any] = {
        "dtype": str(outputs.cls_logits.dtype).removeprefix("torch."),
        "candidates_per_image": round(candidates_per_image(outputs, SCORE_THRESHOLD)),
        "us_per_image": round(times["ours"] / batch * 1e6, 2),
        "us_per_batch": round(times["ours"] * 1e6, 1),
    }
    if "graph" in times:
        row["graph_us_per_image"] = round(times["graph"] / batch * 1e6, 2)
        row["graph_us_per_batch"] = round(times["graph"] * 1e6, 1)
    row["limit_us_per_image"] = round(limit / batch * 1e6, 3)
    row["share_of_limit"] = round(limit / best, 3)
    if "torchvision" in times:
        row["torchvision_us_per_image"] = round(times["torchvision"] / batch * 1e6, 2)
        row["times_torchvision"] = round(times["torchvision"] / times["ours"], 1)
        if "graph" in times:
            row["graph_times_torchvision"] = round(times["torchvision"] / times["graph"], 1)
    return row


def bind_ours(outputs: HeadOutputs) -> Callable[[], tuple[Tensor, ...]]:
    """Our op on these outputs."""
    settings = SPEC.decode_settings(SCORE_THRESHOLD)
    return lambda: decode_nms(
        outputs.bbox_regression, outputs.cls_logits, outputs.default_boxes_cxcywh, settings
    )


def bind_torchvisions(outputs: HeadOutputs) -> Callable[[], list[dict[str, Tensor]]]:
    """The method of torchvision, with what it takes of its model; boxes in pixels."""
    settings = SimpleNamespace(
        box_coder=BoxCoder(weights=BOX_WEIGHTS),
        score_thresh=SCORE_THRESHOLD,
        topk_candidates=SPEC.candidates_per_class,
        nms_thresh=SPEC.iou_threshold,
        detections_per_img=SPEC.max_detections,
    )
    head = {"bbox_regression": outputs.bbox_regression, "cls_logits": outputs.cls_logits}
    batch = len(outputs.cls_logits)
    anchors = [cxcywh_to_xyxy(outputs.default_boxes_cxcywh) * SPEC.image_size[0]] * batch
    sizes = [SPEC.image_size] * batch
    return lambda: SSD.postprocess_detections(settings, head, anchors, sizes)


def check_agreement(ours: tuple[Tensor, ...], theirs: list[dict[str, Tensor]]) -> None:
    """Exit unless nearly every detection of one is among those of the other."""
    boxes, scores, labels, counts = (tensor.cpu() for tensor in ours)
    same = of_all = 0
    for i, found in enumerate(theirs):
        count = int(counts[i])
        mine = torch.cat(
            (boxes[i, :count], labels[i, :count, None] * 10.0, scores[i, :count, None]), dim=1
        )
        other = torch.cat(
            (
                found["boxes"].cpu() / SPEC.image_size[0],
                found["labels"].cpu()[:, None] * 10.0,
                found["scores"].cpu()[:, None],
            ),
            dim=1,
        )
        if len(mine) and len(other):
            near = (mine[:, None] - other[None]).abs().amax(dim=-1) < 1e-3
            same += int(near.any(dim=1).sum())
        of_all += max(len(mine), len(other))
    if same < LEAST_AGREEMENT * of_all:
        sys.exit(f"only {same} of {of_all} detections agree with torchvision's")


def copy_bandwidth(device: str) -> float:
    """Bytes a second, read and written, of a copy."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    clock = wall_seconds
    if device == "cuda":
        from cuda_timing import cuda_seconds

        clock = cuda_seconds
    seconds = alternate([("copy", lambda: target.copy_(source))], seconds=0.2, clock=clock)
    return 2 * COPY_BYTES / seconds["copy"]


if __name__ == "__main__":
    main()
