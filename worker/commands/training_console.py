"""How a training run goes, on stderr: a bar on a terminal, and a line per epoch anywhere.

Takes figures; prints for people. Knows nothing of networks and files.
"""

import time
from collections.abc import Mapping
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

MINUTE, HOUR, DAY = 60, 3600, 86400


class TrainingConsole:
    """Shows a run of ``epochs`` over ``images`` each, of which ``done`` are behind it."""

    def __init__(self, epochs: int, images: int, done: int = 0) -> None:
        self._epochs = epochs
        self._images = images
        self._first = done
        self._began = time.monotonic()
        self._console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self._bar = Progress(*columns, console=self._console, transient=True)
        self._task = self._bar.add_task("starting", total=images, figures="")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def start(self, numbers: Mapping[str, float | None]) -> None:
        """The starting weights are measured: the first epoch begins now."""
        self._began = time.monotonic()
        figures = ", ".join(_figures(numbers)) or "no AP"
        self._print(f"epoch 0/{self._epochs}: {figures} (the starting weights)")

    def step(self, epoch: int, images: int, loss: float) -> None:
        """``images`` of an epoch are done."""
        share = (epoch - 1 + images / self._images) - self._first
        elapsed = time.monotonic() - self._began
        left = elapsed / share * (self._epochs - self._first - share)
        speed = f"{share * self._images / elapsed:.1f} images/s"
        self._bar.update(
            self._task,
            description=f"epoch {epoch}/{self._epochs}",
            completed=images,
            total=self._images,
            figures=f"loss {loss:.3f}, {speed}, {duration(left)} left",
        )

    def validating(self, done: int, total: int) -> None:
        """``done`` images of the validation set are done."""
        self._bar.update(
            self._task, description="validating", completed=done, total=total, figures=""
        )

    def epoch(
        self,
        number: int,
        losses: Mapping[str, float],
        numbers: Mapping[str, float | None],
        images_per_second: float,
        *,
        is_best: bool,
    ) -> None:
        """An epoch is done."""
        parts = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
        figures = [f"loss {sum(losses.values()):.3f} ({parts})", *_figures(numbers)]
        figures.append(f"{images_per_second:.1f} images/s")
        left = self._epochs - number
        if left:
            mean = (time.monotonic() - self._began) / (number - self._first)
            figures.append(f"{duration(mean * left)} left")
        best = ", the best so far" if is_best else ""
        self._print(f"epoch {number}/{self._epochs}: {', '.join(figures)}{best}")

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)


def _figures(numbers: Mapping[str, float | None]) -> list[str]:
    """AP and AP50 as text, where they are defined."""
    return [
        f"{name} {numbers[name]:.3f}" for name in ("AP", "AP50") if numbers.get(name) is not None
    ]


def duration(seconds: float) -> str:
    """In the largest unit that gives a number of some size, such as ``90 s`` or ``14 min``."""
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * HOUR:
        return f"{seconds / MINUTE:.0f} min"
    if seconds < 2 * DAY:
        return f"{seconds / HOUR:.1f} h"
    return f"{seconds / DAY:.1f} days"
