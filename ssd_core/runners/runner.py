"""What a detector asks of whatever runs its batches: one protocol for the CPU and for CUDA."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from torch import Tensor

from ssd_core.found import Found
from ssd_core.ops import DecodeSettings
from ssd_core.preprocess import Image
from ssd_core.yuv import YuvImage

Network: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""(B, 3, S, S) to ``bbox_regression`` (B, A, 4) and ``cls_logits`` (B, A, C)."""
OnStage: TypeAlias = Callable[[str, float], object]
"""Called with a step (``preprocess``, ``network``, ``decode_nms``) and its seconds, from any
thread."""


class Runner(Protocol):
    """Runs one model on one device. Threads may share it."""

    network: Network
    """The network as it runs fastest here."""
    implementation: str
    """How it runs: ``fused``, ``eager`` or ``compiled``."""
    on_stage: OnStage | None
    """Whom to tell how long each step takes; None: nobody, and nothing is measured."""

    @property
    def takes_yuv(self) -> bool:
        """Whether ``submit`` takes YuvImages."""

    @property
    def works_ahead(self) -> bool:
        """Whether it computes on a device of its own, while its caller's cores do other work."""

    @property
    def default_batch(self) -> int:
        """The batch size that gives nearly the highest throughput."""

    @property
    def settings(self) -> DecodeSettings:
        """How outputs are decoded, from the next ``submit`` on."""

    @settings.setter
    def settings(self, settings: DecodeSettings) -> None: ...

    def compute_alike(self, batch: int) -> int:
        """Compute from now on as on every machine with this device, however many cores it has.

        The last digits of scores depend on how many images are computed together. Returns how many
        are in batches of ``batch``: batches that begin at a multiple of it give equal results.
        """

    def submit(self, images: Sequence[Image | YuvImage]) -> Callable[[], Found]:
        """Start on a batch; the function returned waits for its detections."""

    def warm_up(self, batch: int) -> None:
        """Prepare for batches of up to ``batch`` images."""
