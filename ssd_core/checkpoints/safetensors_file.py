"""Safetensors: tensors and metadata out of a file, and a model with its definition into one."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ssd_core.checkpoints.metadata import to_metadata
from ssd_core.errors import CheckpointError
from ssd_core.models.ssd import SSD
from ssd_core.models.zoo import ModelSpec


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, as they are stored, and the metadata. Raises CheckpointError."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies, so that the model does not hold the file mapped.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"weights {path}: not a safetensors file ({error})") from error
    return tensors, metadata


def save_checkpoint(
    model: SSD, path: str | Path, spec: ModelSpec, dtype: torch.dtype | None = None
) -> None:
    """Write the model's weights, with everything that defines it; ``dtype`` converts.

    Raises CheckpointError if the file cannot be written, or ``dtype`` is too small for a weight.
    """
    tensors = {}
    for name, tensor in model.state_dict().items():
        converted = tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
        if not converted.isfinite().all():
            raise CheckpointError(
                f"cannot write {path}: {name} holds numbers that are not finite, or too large for "
                f"{converted.dtype}: keep fp32 (--fp32), or take other weights"
            )
        tensors[name] = converted.contiguous()
    try:
        Path(path).touch()
        mode = Path(path).stat().st_mode
        save_file(tensors, str(path), metadata=to_metadata(spec))
        Path(path).chmod(mode)  # else for nobody but this user, though a service may be another
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot write {path} ({error})") from error
