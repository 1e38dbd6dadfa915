r"""Convert a checkpoint to safetensors: ``python -m ssd_core.checkpoints.convert MODEL FROM TO``.

The file written defines its model whole: ``Detector.load(weights=TO)`` needs nothing else. The
weights in this package were converted like this, from the file that ``weights/NOTICE`` names:

    python -m ssd_core.checkpoints.convert ssd_mobilenet_v2_oid \
      ssd_mobilenet_v2_oid_fp16.tflite OUT.safetensors
"""

import argparse
import sys

import torch

from ssd_core.checkpoints.loading import load_model, save_checkpoint
from ssd_core.errors import SsdError


def main() -> int:
    """Command line of the conversion; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ssd_core.checkpoints.convert", description=__doc__
    )
    parser.add_argument("model", help="name of the model")
    parser.add_argument("source", help=".tflite, .pth, .pt or .safetensors")
    parser.add_argument("target", help=".safetensors to write")
    parser.add_argument("--fp32", action="store_true", help="keep fp32 (default: store as fp16)")
    options = parser.parse_args()
    try:
        model, spec, _ = load_model(options.model, options.source)
        save_checkpoint(model, options.target, spec, None if options.fp32 else torch.float16)
    except SsdError as error:
        print(f"convert: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
