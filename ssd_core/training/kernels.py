"""Whether training uses Triton's kernels: on CUDA, until one of them fails.

What they compute, ``matching`` and ``loss`` compute in plain PyTorch too.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from ssd_core.failures import raise_if_of_device
from ssd_core.ops.decode_nms import why_no_kernels

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class Kernels:
    """The choice, for this process."""

    def __init__(self) -> None:
        self.reason = ""
        """Why they are not used, in one line; empty while they are."""

    def serve(self, tensor: Tensor) -> bool:
        """Whether they are used for tensors on this one's device."""
        return tensor.is_cuda and not self.reason

    def or_else(
        self, tensor: Tensor, kernels: Callable[[], Result], plain: Callable[[], Result]
    ) -> Result:
        """What ``kernels`` gives where they serve ``tensor``'s device, else what ``plain`` gives.

        Warns the first time that a kernel fails. Raises OutOfMemoryError or AcceleratorError if the
        device caused that.
        """
        if self.serve(tensor):
            try:
                return kernels()
            except Exception as error:  # Triton's own errors have no common class
                raise_if_of_device(error)
                self.reason = why_no_kernels(error)
                log.warning(
                    "no Triton kernels: matching and loss in plain PyTorch, slower: %s", self.reason
                )
                log.debug("why there are no Triton kernels", exc_info=error)
        return plain()


triton_kernels = Kernels()
