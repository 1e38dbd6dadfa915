"""Watches cameras and recordings with SSD, and publishes what it detects.

``worker.watch`` is for own code in the same process; ``worker.consumer`` reads what other processes
publish.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.watching import watch

__all__ = ["watch"]


def __getattr__(name: str) -> Any:
    # PyTorch and PyAV take seconds to import, and who only reads events has neither.
    if name == "watch":
        from worker.watching import watch

        return watch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
