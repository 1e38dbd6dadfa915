r"""Convert a checkpoint to safetensors: ``python -m ssd_core.checkpoints.convert MODEL FROM TO``.

The file written defines its model whole: ``Detector.load(weights=TO)`` needs nothing else. The
weights in this package were converted like this, from the file that ``weights/NOTICE`` names:

    python -m ssd_core.checkpoints.convert ssd_mobilenet_v2_oid \
      ssd_mobilenet_v2_oid_fp16.tflite OUT.safetensors

Weights with classes of their own need a file of labels, one per line, in the order of training. The
background's, which is class 0, may be left out:

    python -m ssd_core.checkpoints.convert ssd300_vgg16 model_119.pth OUT.safetensors \
      --labels labels.txt
"""

import argparse
import sys
from pathlib import Path

import torch

from ssd_core.checkpoints.labels import read_labels
from ssd_core.checkpoints.loading import load_model, save_checkpoint
from ssd_core.errors import SsdError


def main() -> int:
    """Command line of the conversion; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ssd_core.checkpoints.convert", description=__doc__
    )
    parser.add_argument("model", help="name of the model")
    parser.add_argument("source", help=".tflite, .pth, .pt, .ckpt or .safetensors")
    parser.add_argument("target", help=".safetensors to write")
    parser.add_argument(
        "--labels", metavar="FILE", type=Path, help="text file with a label per line and class"
    )
    parser.add_argument("--fp32", action="store_true", help="keep fp32 (default: store as fp16)")
    options = parser.parse_args()
    try:
        labels = None if options.labels is None else read_labels(options.labels)
        model, spec, _ = load_model(options.model, options.source, labels)
        save_checkpoint(model, options.target, spec, None if options.fp32 else torch.float16)
    except SsdError as error:
        print(f"convert: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
