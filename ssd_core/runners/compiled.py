"""Optional torch.compile of a network, where available. Off by default: compiling takes a while.

On the CPU with weights frozen into the code, which needs a C++ compiler. There the fused network of
``cpu_fusion`` is as fast without compiling (MobileNet bf16, one thread of a Xeon: 7.9 ms an image,
Inductor 8.6 after 24 s); on CUDA Inductor fuses biases and activations into fewer kernels.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssd_core.models.ssd import SSD

log = logging.getLogger(__name__)


def compile_network(
    model: SSD, example: Tensor
) -> Callable[[Tensor], tuple[Tensor, Tensor]] | None:
    """The compiled network; None, with a warning, if this machine cannot compile.

    Tried on ``example``, an input (1, 3, S, S). Other batch sizes compile on their first use.
    """
    options: dict[str, Any] = {"freezing": True} if example.device.type == "cpu" else {}
    # One for each batch size: powers of two up to 1024, and the example's.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 16)
    network = torch.compile(model, dynamic=False, options=options)
    started = time.monotonic()
    threads = torch.get_num_threads()
    if example.device.type == "cpu":
        torch.set_num_threads(1)  # code is made for a number of threads, and workers use one each
    try:
        with torch.inference_mode():
            network(example)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # compilers fail in many ways, none of which should end a worker
        reason = str(error).strip().partition("\n")[0][:200]
        log.warning("--compile is left out, the network cannot be compiled here: %s", reason)
        return None
    finally:
        torch.set_num_threads(threads)
    log.info("compiled the network in %.0f s", time.monotonic() - started)
    return network
