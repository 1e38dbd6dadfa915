"""What an error of PyTorch, cuDNN or Triton means: out of memory, a lost device, or neither.

Each of them reports the same failure with its own class and text, and a CUDA graph's capture raises
another error on top of the first. Knows neither models nor images.
"""

from collections.abc import Iterator

import torch

OUT_OF_MEMORY = ("out of memory", "unable to find an engine to execute")
"""Pinned memory, graphs and Triton's launcher say so in errors of other classes; cuDNN finds no
algorithm (pytorch#108645)."""
CONTEXT_LOST = (
    "illegal memory access",
    "misaligned address",
    "illegal instruction",
    "illegal address",
    "invalid program counter",
    "operation not supported on global/shared address space",
    "hardware stack error",
    "unspecified launch failure",
    "launch timed out",
    "device-side assert",
    "uncorrectable",
    "context is destroyed",
)
"""As cudaGetErrorString and cuGetErrorString word errors that leave the context unusable: codes
214, 220, 702 and 709 to 719 of the driver API."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, even if another error was raised while that one was handled."""
    return any(
        isinstance(link, torch.OutOfMemoryError) or _says(link, OUT_OF_MEMORY)
        for link in chain_of(error)
    )


def is_context_lost(error: BaseException) -> bool:
    """Whether the device is unusable for the rest of this process."""
    if isinstance(error, torch.AcceleratorError):
        return not is_out_of_memory(error)
    return any(_says(link, CONTEXT_LOST) for link in chain_of(error))


def raise_if_of_device(error: BaseException) -> None:
    """Raise OutOfMemoryError or AcceleratorError if that is what ``error`` means.

    Triton's launcher raises a plain RuntimeError for both: "Triton Error [CUDA]: an illegal memory
    access was encountered".
    """
    if is_out_of_memory(error):
        if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):
            raise error
        raise torch.OutOfMemoryError(str(error)) from error
    if is_context_lost(error):
        if isinstance(error, torch.AcceleratorError):
            raise error
        raise torch.AcceleratorError(one_line(error)) from error


def one_line(error: BaseException) -> str:
    """The error's class and text, in one line of at most 200 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """The error, then those during which, or because of which, it was raised."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _says(error: BaseException, texts: tuple[str, ...]) -> bool:
    return any(text in str(error) for text in texts)
