"""Progress and summary on stderr.

Takes counts and summaries; prints for people. Knows nothing of cameras and sinks.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from worker.errors import UsageError
from worker.pipeline.summary import Summary
from worker.secrecy.redaction import redact


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.0f} fps" if speed else "- fps", style="progress.data.speed")


class Advance(Protocol):
    """Reports progress to the bar."""

    def __call__(self, completed: int) -> None:
        """``completed`` frames are done."""
        ...


@contextmanager
def progress_bar(description: str, total: int, *, done_before: int = 0) -> Iterator[Advance]:
    """A bar of frames, frames per second and time left; nothing if stderr is not a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda completed: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=total or None, completed=done_before)
        yield lambda completed: progress.update(task, completed=done_before + completed)


def print_summary(summary: Summary, places: Iterable[str]) -> None:
    """Print frames, speed, detections per label, and where the events are."""
    speed = summary.frames / summary.seconds if summary.seconds else 0.0
    lines = [f"{summary.frames} frames in {summary.seconds:.1f} s ({speed:.1f} fps)"]
    if summary.dropped:
        lines[0] += f", {summary.dropped} dropped"
    found = ", ".join(f"{label} {count}" for label, count in summary.detections.most_common())
    lines.append(f"detections: {found or 'none'}")
    lines += [f"events: {place}" for place in places]
    print("\n".join(lines), file=sys.stderr)


def told(error: ValueError) -> UsageError:
    """The error for the last line; prints the others, such as the faults of a data set, before."""
    headline, *lines = str(error).split("\n")
    for line in lines:
        print(redact(line.strip()), file=sys.stderr)
    return UsageError(headline.removesuffix(":"))
