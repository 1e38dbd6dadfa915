"""Scaling of decoded pictures written a second time, as products of matrices."""

from dataclasses import replace

import torch

from ssd_core.yuv import yuv_to_rgb_matrix


def scaled(image, size, antialias=True):
    """(3, H, W) RGB in 0..255 of a YuvImage, upright."""
    if image.quarter_turns:
        sideways = size[::-1] if image.quarter_turns % 2 else size
        upright = scaled(replace(image, quarter_turns=0), sideways, antialias)
        return torch.rot90(upright, image.quarter_turns, (1, 2))
    y, u, v = (torch.as_tensor(plane).double().cpu() for plane in (image.y, image.u, image.v))
    luma = resampled(y, size, 0, antialias)
    # Chroma lies level with the left of two luma columns: a quarter of its own to the left.
    blue, red = (resampled(plane, size, 0.25, antialias) for plane in (u, v))
    linear, offset = map(torch.from_numpy, yuv_to_rgb_matrix(image.full_range, image.matrix))
    rgb = torch.einsum("ij,jhw->ihw", linear, torch.stack([luma, blue, red]))
    return (rgb + offset[:, None, None]).clamp(0, 255).float()


def resampled(plane, size, shift, antialias):
    rows = triangle_weights(plane.shape[0], size[0], 0, antialias)
    columns = triangle_weights(plane.shape[1], size[1], shift, antialias)
    return rows @ plane @ columns.T


def triangle_weights(length, new_length, shift, antialias):
    """(new_length, length): the share of each old pixel in each new one."""
    scale = length / new_length
    centre = (torch.arange(new_length).double()[:, None] + 0.5) * scale + shift
    distance = (torch.arange(length) + 0.5 - centre).abs()
    weights = (1 - distance / (max(scale, 1) if antialias else 1)).clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True)
