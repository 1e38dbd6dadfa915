"""Whether a network runs on CUDA with fused convolutions: decided once, by trying."""

import logging

import torch
from torch import Tensor, nn

from ssd_core.failures import raise_if_of_device
from ssd_core.models.ssd import SSD
from ssd_core.ops.decode_nms import why_no_kernels

log = logging.getLogger(__name__)

DTYPES = (torch.bfloat16, torch.float16)
"""Types that the kernels multiply; in others the network stays as it is."""


def fuse_for_cuda(model: SSD, example: Tensor) -> nn.Module | None:
    """The network with fused convolutions; None, with a warning, where its kernels do not run.

    Tried on ``example``, an input (B, 3, S, S) on the device, in the model's type. Raises
    OutOfMemoryError or AcceleratorError if the device caused it.
    """
    if example.dtype not in DTYPES:
        return None
    try:
        # Imported on use: Triton is not available on every machine.
        from ssd_core.runners.cuda_network import FusedSSD

        network = FusedSSD(model)
        with torch.inference_mode():
            network(example)
    except Exception as error:  # Triton's own errors have no common class
        raise_if_of_device(error)
        reason = why_no_kernels(error)
        log.warning("convolutions are not fused on this GPU, the network is slower: %s", reason)
        log.debug("why convolutions are not fused", exc_info=error)
        return None
    return network
