"""One small call of each kernel, for compute-sanitizer: no model, no video, nothing to compare.

    compute-sanitizer --tool memcheck python benchmarks/gpu/kernel_calls.py --device cuda

`decode_nms` on head outputs of SSD300 with short lists of candidates (a sparse image) and long ones
(a dense image: thousands of candidates in each of 90 classes), and `yuv_to_input` on a picture with
odd sizes and on one that is turned. Inputs are made on the CPU, so that next to no kernels but
these run.
"""

import torch
from common import introduce, parser
from head_outputs import HeadOutputs, dense, sparse

from ssd_core.models.zoo import get_spec
from ssd_core.ops import decode_nms
from ssd_core.ops.yuv_to_input import describe_images, yuv_to_input
from ssd_core.yuv import YuvImage

SPEC = get_spec("ssd300_vgg16")
SIZES = [(97, 131, 0), (64, 96, 1)]
"""(height, width, quarter turns) of the pictures."""


def main() -> None:
    """Call the kernels and wait for them."""
    options = parser(__doc__)
    chosen = options.parse_args()
    introduce(chosen.device, "torch", "triton")
    for name, outputs in {"short": sparse(SPEC, 2), "long": dense(SPEC, 1)}.items():
        for dtype in (torch.float32, torch.bfloat16):
            found = detect(outputs.to(torch.device(chosen.device), dtype))
            print(f"decode_nms, {name} lists, {dtype}: {int(found)} detections", flush=True)
    if chosen.device == "cuda":  # on the CPU there is no such op
        images = [picture(*size) for size in SIZES]
        out = torch.empty(len(images), 3, 300, 300, memory_format=torch.channels_last).cuda()
        tables = describe_images(images)
        yuv_to_input(type(tables)(*(table.cuda() for table in tables)), out, SPEC.mean, SPEC.std)
        print(f"yuv_to_input: mean {out.cpu().mean():.3f}")


def detect(outputs: HeadOutputs) -> int:
    """How many detections there are."""
    found = decode_nms(
        outputs.bbox_regression,
        outputs.cls_logits,
        outputs.default_boxes_cxcywh,
        SPEC.decode_settings(0.01),
    )
    return int(found.count.cpu().sum())


def picture(height: int, width: int, quarter_turns: int) -> YuvImage:
    """Random planes on the device."""
    generator = torch.Generator().manual_seed(height)

    def plane(rows: int, columns: int) -> torch.Tensor:
        return torch.randint(0, 256, (rows, columns), generator=generator, dtype=torch.uint8).cuda()

    chroma = (height + 1) // 2, (width + 1) // 2
    return YuvImage(
        plane(height, width), plane(*chroma), plane(*chroma), False, "bt601", quarter_turns
    )


if __name__ == "__main__":
    main()
