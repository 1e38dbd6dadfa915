"""rgb_to_input: uint8 RGB images of the network's size to its input, normalised, in one kernel.

Goes in: a table with the address of each image. Comes out: a (B, 3, S_h, S_w) batch. The table is
read on the device, so a captured launch serves every later batch. Like ``yuv_to_input`` it does not
look after the images' life: they stay where they are until the kernel has run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Chosen from the compiled code, not timed: a thread reads 8 bytes at once and writes as many
# numbers. With 16 of each they pass through shared memory.
BLOCK_VALUES = 2048
NUM_WARPS = 8


def rgb_to_input(
    addresses: Tensor,
    out: Tensor,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Tensor:
    """Fill ``out`` with ``(pixel - mean) / std``, computed in fp32; returns ``out``.

    ``addresses`` (B or more,) int64, on the device of ``out``: where each (S_h, S_w, 3) uint8 image
    lies, without gaps, at a multiple of 16; zero for an empty slot, which stays as it is. ``out``
    is (B, 3, S_h, S_w) in channels_last memory, fp32, fp16 or bf16.

    Does not synchronise with the host. Raises ValueError for tensors of other shapes or types.
    """
    _check(addresses, out)
    values = out[0].numel() if len(out) else 0
    if values:
        with torch.cuda.device_of(out):
            _rgb_to_input_kernel[(triton.cdiv(values, BLOCK_VALUES), len(out))](
                addresses,
                out,
                values,
                *map(float, mean),
                *(1 / value for value in std),
                BLOCK_VALUES=BLOCK_VALUES,
                num_warps=NUM_WARPS,
                # Triton 3.9 warns where it is left to the default, which 3.10 changes.
                enable_fp_fusion=True,
            )
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _rgb_to_input_kernel(
    addresses: tl.tensor,
    out: tl.tensor,
    values: tl.tensor,
    mean_red: tl.tensor,
    mean_green: tl.tensor,
    mean_blue: tl.tensor,
    scale_red: tl.tensor,
    scale_green: tl.tensor,
    scale_blue: tl.tensor,
    BLOCK_VALUES: tl.constexpr,
) -> None:
    """A program makes BLOCK_VALUES neighbouring values of one image: the layouts are the same."""
    image = tl.program_id(1).to(tl.int64)
    address = tl.load(addresses + image)
    if address == 0:
        return
    pixels = tl.multiple_of(address.to(tl.pointer_type(tl.uint8)), 16)
    value = tl.program_id(0) * BLOCK_VALUES + tl.arange(0, BLOCK_VALUES)
    inside = value < values
    channel = value % 3
    mean = tl.where(channel == 0, mean_red, tl.where(channel == 1, mean_green, mean_blue))
    scale = tl.where(channel == 0, scale_red, tl.where(channel == 1, scale_green, scale_blue))
    pixel = tl.load(pixels + value, mask=inside, other=0).to(tl.float32)
    made = ((pixel - mean) * scale).to(out.dtype.element_ty)
    tl.store(out + image * values + value, made, mask=inside)


def _check(addresses: Tensor, out: Tensor) -> None:
    if out.ndim != 4 or out.shape[1] != 3:
        raise ValueError(f"out is (B, 3, height, width), not {tuple(out.shape)}")
    if out.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"out is fp32, fp16 or bf16, not {out.dtype}")
    if not out.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"out is in channels_last memory, not of strides {out.stride()}")
    if addresses.ndim != 1 or len(addresses) < len(out) or not addresses.is_contiguous():
        raise ValueError(f"addresses is ({len(out)} or more,), not {tuple(addresses.shape)}")
    if addresses.dtype != torch.int64 or addresses.device != out.device:
        raise ValueError(
            f"addresses is int64 on {out.device}, not {addresses.dtype} on {addresses.device}"
        )
