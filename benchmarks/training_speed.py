"""How fast SSD learns: matching and loss, and whole training steps, beside torchvision's.

    python benchmarks/training_speed.py [--device cuda] [--quick]

- loss: matching and the MultiBox loss, forward and backward, of 32 images with 20 objects each, for
  the outputs of `ssd300_vgg16` with 91 classes; the outputs are random. torchvision's is
  `SSDMatcher` with `SSD.compute_loss`.
- step: forward, loss, backward and SGD of `ssd300_vgg16` on images that are there. torchvision's
  is the same network, weights and loss; it also resizes its images, from 300x300 to 300x300.
- loader: reading JPEGs of 1280x720 with the paper's augmentation, per image, in one process; and
  how long a step of `ssd_mobilenet_v2_oid` waits for the loader per image, with `train`'s defaults.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import torch
from common import RESULTS, alternate, finish, introduce, keep, parser, wall_seconds
from cuda_timing import cuda_seconds
from packaged_data import write_coco
from torch import Tensor

from ssd_core.box_coder import cxcywh_to_xyxy
from ssd_core.models.zoo import MODELS, build_model
from ssd_core.training import multibox_loss
from ssd_core.training.augment import PAPER
from ssd_core.training.data import DataSet
from ssd_core.training.data_sets.reading import read_data_set
from ssd_core.training.initialisation import starting_model
from ssd_core.training.loader import BatchLoader, default_workers
from ssd_core.training.matching import match_batch, padded
from ssd_core.training.processes import ALONE
from ssd_core.training.recipe import BATCH, Recipe
from ssd_core.training.step import Stepper

MODEL = "ssd300_vgg16"
OBJECTS = 20
SIZE = 300
READ = 160
"""Images that the loader reads."""
CLIP = Path(__file__).parent.parent / "samples" / "walkway.mp4"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--step-batch", type=int, help="default: --batch on a GPU, else 4")
    options.add_argument("--seconds", type=float, default=5.0, help="per candidate")
    options.add_argument("--read", type=int, default=READ, help="images that the loader reads")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    chosen = options.parse_args()
    if chosen.quick:
        chosen.batch, chosen.step_batch, chosen.seconds, chosen.read = 2, 1, 0.1, 4
    chosen.step_batch = chosen.step_batch or (chosen.batch if chosen.device == "cuda" else 4)
    introduce(chosen.device, "torch", "torchvision", "triton")
    torch.manual_seed(0)
    results = {name: PARTS[name](chosen) for name in chosen.parts}
    finish("training_speed", chosen.device, **results)


def losses(chosen: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of matching and loss, forward and backward."""
    device, batch = chosen.device, chosen.batch
    spec = MODELS[MODEL]
    defaults = spec.default_boxes().to(device)
    outputs = [
        torch.randn(batch, len(defaults), size, device=device).requires_grad_()
        for size in (4, spec.num_classes)
    ]
    boxes, labels = objects(batch, spec.num_classes, device)
    theirs = torchvisions_loss(defaults)

    def backward(loss: Callable[..., Any]) -> Callable[[], None]:
        def call() -> None:
            for output in outputs:
                output.grad = None
            sum(loss(*outputs, defaults, boxes, labels)).backward()

        return call

    def matching() -> None:
        match_batch(*padded(boxes), defaults)

    ours = backward(multibox_loss)
    if device == "cuda":
        ours()  # compiles
        torch.cuda.set_sync_debug_mode("error")
        ours()
        torch.cuda.set_sync_debug_mode("default")
    candidates = [
        ("ours", ours),
        ("torchvision", backward(theirs)),
        ("ours, matching alone", matching),
    ]
    return measure("loss", candidates, chosen, batch=batch, precision="fp32")


def steps(chosen: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of training steps."""
    found = {}
    for precision in ("fp32", "bf16"):
        ours, theirs = training_steps(chosen, precision)
        candidates = [("ours", ours), ("torchvision", theirs)]
        measured = measure("step", candidates, chosen, batch=chosen.step_batch, precision=precision)
        found |= {f"{name} {precision}": ms for name, ms in measured.items()}
    return found


def training_steps(
    chosen: argparse.Namespace, precision: str
) -> tuple[Callable[[], None], Callable[[], None]]:
    """A training step of ours and of torchvision's, on images of their own."""
    from torchvision.models.detection import ssd300_vgg16

    device, batch = chosen.device, chosen.step_batch
    spec = MODELS[MODEL]
    defaults = spec.default_boxes().to(device)
    boxes, labels = objects(batch, spec.num_classes, device)
    images = torch.rand(batch, 3, SIZE, SIZE, device=device)
    targets = [{"boxes": b * SIZE, "labels": n} for b, n in zip(boxes, labels, strict=True)]
    model = build_model(MODEL).to(device, memory_format=torch.channels_last).train()
    peer = ssd300_vgg16(weights=None, weights_backbone=None).to(device).train()

    def step(model: Any, loss: Callable[[], Tensor]) -> Callable[[], None]:
        optimizer = torch.optim.SGD(model.parameters(), 1e-5, momentum=0.9, weight_decay=5e-4)

        def call() -> None:
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                total = loss()
            total.backward()
            optimizer.step()

        return call

    def our_loss() -> Tensor:
        outputs = model(images.contiguous(memory_format=torch.channels_last))
        return sum(multibox_loss(*outputs, defaults, boxes, labels))  # type: ignore[return-value]

    def their_loss() -> Tensor:
        return sum(peer(list(images), targets).values())  # type: ignore[return-value]

    return step(model, our_loss), step(peer, their_loss)


def loading(chosen: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of the loader per image, and of a step's wait for it."""
    with tempfile.TemporaryDirectory() as folder:
        data = photographs(Path(folder), chosen.read)
        network, spec, _ = starting_model(data.labels)
        with BatchLoader(data, spec, BATCH, augment=PAPER) as loader:
            began = time.process_time()
            images = sum(len(batch.images) for batch in loader.epoch(0))
            found = {"one process": 1e3 * (time.process_time() - began) / images}
        device = torch.device(chosen.device)
        network.to(device, memory_format=torch.channels_last)
        stepper = Stepper(network, spec, Recipe(1, BATCH, 1e-4), device, ALONE)
        workers = default_workers()
        with BatchLoader(data, spec, BATCH, augment=PAPER, workers=workers) as loader:
            for epoch in range(2):  # in the first one processes start
                waited, began = 0.0, time.perf_counter()
                batches = loader.epoch(epoch)
                while True:
                    asked = time.perf_counter()
                    batch = next(batches, None)
                    waited += time.perf_counter() - asked
                    if batch is None:
                        break
                    stepper.step(batch, 1e-4).read()
                passed = time.perf_counter() - began
        found[f"a step's wait, of {1e3 * passed / images:.1f}, {workers} workers"] = (
            1e3 * waited / images
        )
    for name, ms in found.items():
        row = {"what": "loader", "candidate": name, "batch": BATCH, "ms": round(ms, 3)}
        print(row, flush=True)
        if not chosen.quick:
            keep(RESULTS / "training_speed.csv", row, chosen.device)
    return {name: round(ms, 3) for name, ms in found.items()}


def photographs(folder: Path, count: int) -> DataSet:
    """Frames of the sample clip, enlarged, as JPEGs with an object in each."""
    with av.open(str(CLIP)) as container:
        frames = islice(cycle(islice(container.decode(video=0), 8)), count)
        images = (
            (frame.to_ndarray(width=1280, height=720, format="rgb24"), [(1, (400, 200, 600, 500))])
            for frame in frames
        )
        write_coco(folder, "photographs", images, ["thing"], suffix="jpg")
    return read_data_set([folder / "photographs.json"])


def objects(images: int, classes: int, device: str) -> tuple[list[Tensor], list[Tensor]]:
    """Boxes (N, 4) xyxy in [0, 1] of a tenth to a half of the image, and classes (N,)."""
    centers = torch.rand(images, OBJECTS, 2) * 0.4 + 0.3
    sizes = torch.rand(images, OBJECTS, 2) * 0.4 + 0.1
    boxes = cxcywh_to_xyxy(torch.cat((centers, sizes), -1)).to(device)
    labels = torch.randint(1, classes, (images, OBJECTS)).to(device)
    return list(boxes), list(labels)


def torchvisions_loss(defaults: Tensor) -> Callable[..., tuple[Tensor, Tensor]]:
    """What torchvision's SSD does to match and to compute its loss."""
    from torchvision.models.detection._utils import BoxCoder, SSDMatcher
    from torchvision.models.detection.ssd import SSD
    from torchvision.ops import box_iou

    holder = SimpleNamespace(box_coder=BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)), neg_to_pos_ratio=3)
    matcher = SSDMatcher(0.5)
    anchors = cxcywh_to_xyxy(defaults) * SIZE

    def loss(
        regression: Tensor, logits: Tensor, _: Tensor, boxes: list[Tensor], labels: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        targets = [{"boxes": b * SIZE, "labels": n} for b, n in zip(boxes, labels, strict=True)]
        matched = [matcher(box_iou(target["boxes"], anchors)) for target in targets]
        heads = {"bbox_regression": regression, "cls_logits": logits}
        found = SSD.compute_loss(holder, targets, heads, [anchors] * len(boxes), matched)
        return found["bbox_regression"], found["classification"]

    return loss


def measure(
    what: str,
    candidates: list[tuple[str, Callable[[], None]]],
    chosen: argparse.Namespace,
    **details: Any,
) -> dict[str, float]:
    """Milliseconds of each candidate; printed and kept."""
    clock = cuda_seconds if chosen.device == "cuda" else wall_seconds
    measured = alternate(candidates, seconds=chosen.seconds, clock=clock)
    for name, seconds in measured.items():
        row = {"what": what, "candidate": name, **details, "ms": round(1e3 * seconds, 3)}
        print(row, flush=True)
        if not chosen.quick:
            keep(RESULTS / "training_speed.csv", row, chosen.device)
    return {name: round(1e3 * seconds, 3) for name, seconds in measured.items()}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    "loss": losses,
    "step": steps,
    "loader": loading,
}


if __name__ == "__main__":
    main()
