"""Images to network input: uint8 RGB of any size in, one normalised tensor out."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ssd_core.models.zoo import ModelSpec
from ssd_core.yuv import YuvImage

Image: TypeAlias = npt.NDArray[np.uint8] | Tensor
"""(H, W, 3) uint8 RGB."""


@torch.inference_mode(False)
def preprocess(
    images: Sequence[Image], spec: ModelSpec, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """(B, 3, S, S) network input, channels_last, for B images of any sizes.

    Images are stretched to the input size (bilinear), then normalised in fp32. The input is an
    ordinary tensor, whatever mode it is made in. Raises ValueError for anything that is not
    (H, W, 3) uint8.
    """
    height, width = spec.image_size
    if len(images) == 0:
        return torch.empty(0, 3, height, width, dtype=dtype, device=device)
    tensors = [as_tensor(image) for image in images]
    # Images of one size go to the device in one piece.
    alike = len({(tensor.shape, tensor.device) for tensor in tensors}) == 1
    pieces = [_move(tensors, device)] if alike else [_move([tensor], device) for tensor in tensors]
    scaled = [_resize(piece, spec) for piece in pieces]
    pixels = scaled[0] if alike else torch.cat(scaled)
    if pixels.dtype == torch.uint8 and _exact_in(dtype, spec):
        x = pixels.to(dtype).sub_(spec.mean[0]).mul_(1 / spec.std[0])
        return x.permute(0, 3, 1, 2)
    # As rows of width * 3 numbers: over rows of 3, the channels alone, these steps take 0.50 ms an
    # image instead of 0.15.
    rows = pixels.float().reshape(len(tensors), height, width * 3)
    mean, scale = _normalisation(spec, device)
    rows = (rows - mean).mul_(scale)
    return rows.to(dtype).view(len(tensors), height, width, 3).permute(0, 3, 1, 2)


def require_rgb(image: Image | YuvImage) -> Image:
    """Return the image; raise ValueError for a YuvImage, which only a Triton kernel converts."""
    if isinstance(image, YuvImage):
        raise ValueError("an image is (height, width, 3) uint8 RGB here, not a YuvImage")
    return image


@lru_cache(maxsize=8)
def _exact_in(dtype: torch.dtype, spec: ModelSpec) -> bool:
    """Whether normalising in ``dtype``, on half the memory, gives what rounding from fp32 gives.

    It does where channels are alike and every pixel less the mean is a number of that type.
    """
    if len(set(spec.mean)) > 1 or len(set(spec.std)) > 1:
        return False
    centred = torch.arange(256, dtype=torch.float32, device="cpu") - spec.mean[0]
    return torch.equal(centred.to(dtype).float(), centred.float())


@lru_cache(maxsize=8)
def _normalisation(spec: ModelSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """(W * 3,) mean and 1 / std of a row of pixels; cached: copying them to a GPU waits for it."""
    width = spec.image_size[1]
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device="cpu").repeat(width)
        for values in (spec.mean, spec.std)
    )
    return mean.to(device), (1 / std).to(device)


def _move(images: Sequence[Tensor], device: torch.device) -> Tensor:
    """Images of one size as one tensor on the device, without waiting for work queued before."""
    first = images[0]
    if device.type == "cuda" and first.device.type == "cpu":
        pinned = torch.empty(
            len(images), *first.shape, dtype=first.dtype, device="cpu", pin_memory=True
        )
        return torch.stack(list(images), out=pinned).to(device, non_blocking=True)
    return torch.stack(list(images)).to(device, non_blocking=True)


def as_tensor(image: Image) -> Tensor:
    """The image as a tensor, which shares its memory if it can.

    Raises ValueError for anything that is not (H, W, 3) uint8.
    """
    if isinstance(image, np.ndarray):
        # A tensor cannot share memory that is read-only, as that of a Pillow image is.
        image = torch.from_numpy(np.require(image, requirements=("C", "W")))
    if not isinstance(image, Tensor):
        raise ValueError(f"an image is (height, width, 3) uint8 RGB, not a {type(image).__name__}")
    tensor = image
    if (
        tensor.ndim != 3
        or tensor.shape[2] != 3
        or tensor.dtype != torch.uint8
        or not tensor.numel()
    ):
        raise ValueError(
            f"an image is (height, width, 3) uint8 RGB, not {tuple(tensor.shape)} {tensor.dtype}"
        )
    return tensor


def _resize(images: Tensor, spec: ModelSpec) -> Tensor:
    """(B, H, W, 3) uint8 to (B, S, S, 3): fp32, or as they are if they have that size."""
    if images.shape[1:3] == spec.image_size:
        return images
    resized = F.interpolate(
        images.permute(0, 3, 1, 2).float(),
        spec.image_size,
        mode="bilinear",
        align_corners=False,
        antialias=spec.antialias,
    )
    return resized.permute(0, 2, 3, 1)
