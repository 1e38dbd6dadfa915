"""Which device and which precision: decided once, with the reason when it is not available."""

import platform
import re
from pathlib import Path

import torch

from ssd_core.errors import DeviceError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CPU_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Processor flags of bf16 arithmetic: x86's two, and Arm's, as /proc/cpuinfo spells them."""
CUDA_BF16_CAPABILITY = (8, 0)
"""First compute capability with bf16 tensor cores (Ampere)."""


def choose_device(name: str) -> torch.device:
    """The device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. Raises DeviceError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    match = re.fullmatch(r"cuda(?::([0-9]+))?", name)
    if match is None:
        raise DeviceError(f"device {name!r}: expected auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise DeviceError(f"device {name!r}: no usable CUDA device here: use cpu or auto")
    if int(match[1] or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise DeviceError(f"device {name!r}: no such GPU: the last one here is cuda:{last}")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The network's type for ``auto``, ``fp32``, ``bf16`` or ``fp16``. Raises DeviceError."""
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if cuda_has_bf16(device) else torch.float16
        return torch.bfloat16 if cpu_has_bf16() else torch.float32
    if name not in PRECISIONS:
        raise DeviceError(f"precision {name!r}: expected auto, {', '.join(PRECISIONS)}")
    if name == "fp16" and device.type == "cpu":
        raise DeviceError("precision 'fp16' needs a CUDA device: use bf16 or fp32 on the CPU")
    if name == "bf16" and device.type == "cuda" and not cuda_has_bf16(device):
        raise DeviceError(
            f"precision 'bf16': {torch.cuda.get_device_name(device)} does not support it: "
            "use fp16 or auto"
        )
    return PRECISIONS[name]


def cuda_has_bf16(device: torch.device) -> bool:
    """Whether this GPU multiplies bf16 in hardware."""
    return torch.cuda.get_device_capability(device) >= CUDA_BF16_CAPABILITY


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bf16 in hardware (Linux only; elsewhere: no)."""
    if platform.system() != "Linux":
        return False
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return not CPU_BF16_FLAGS.isdisjoint(line.split())
    return False
