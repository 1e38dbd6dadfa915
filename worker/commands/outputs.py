"""The output files of a replay: checked before it starts, made from its journal when it is done.

Takes settings and the finished JSON Lines; gives Parquet, COCO and annotated video. Knows nothing
of detectors and Redis.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from worker.commands.console import progress_bar
from worker.commands.requirements import check_place
from worker.errors import UsageError
from worker.settings.fields import ReplaySettings
from worker.sinks.jsonl import JsonlSink
from worker.sinks.made import Made
from worker.sources.recording import Recording, upright_images

SMALLEST_VIDEO_PX, LARGEST_VIDEO_PX = 2, 16384
"""Width and height: H.264's chroma has half of each, and x264 encodes no larger ones."""


def check_outputs(settings: ReplaySettings, recordings: Sequence[Recording]) -> None:
    """Raise UsageError for outputs that cannot be written, before anything is analysed."""
    made = made_outputs(settings)
    if made is not None:
        made.forget_finished()
    for path in (settings.output, settings.annotate):
        if path is None:
            continue
        check_place(path, may_exist=settings.overwrite or bool(made and made.has(path)))
        if path.exists() and any(path.samefile(recording.path) for recording in recordings):
            raise UsageError(f"{path}: is the recording itself: choose another name")
    if settings.annotate is not None:
        _check_size(settings.annotate, recordings[0])


def _check_size(path: Path, recording: Recording) -> None:
    size = recording.width, recording.height
    if min(size) < SMALLEST_VIDEO_PX:
        limit = f"needs {SMALLEST_VIDEO_PX} pixels each way"
    elif max(size) > LARGEST_VIDEO_PX + 1:  # an odd size is made even
        limit = f"has at most {LARGEST_VIDEO_PX} pixels each way"
    else:
        return
    raise UsageError(
        f"{path}: the pictures of {recording.path} are {size[0]}x{size[1]}, and a video {limit}: "
        "leave out --annotate"
    )


def made_outputs(settings: ReplaySettings) -> Made | None:
    """The record of what an unfinished replay has made; None without files."""
    journaled = settings.output or settings.annotate
    return None if journaled is None else Made(journaled)


def finish_outputs(
    recordings: Sequence[Recording],
    journal: JsonlSink,
    labels: Sequence[str],
    settings: ReplaySettings,
) -> list[str]:
    """Make the outputs from the finished journal, those that are missing; returns their names."""
    places = []
    made, claim = Made(journal.output), journal.path.name
    annotated, output = settings.annotate, settings.output
    if annotated is not None:
        made.make(
            annotated,
            claim,
            lambda note: _annotate(recordings[0], journal, annotated, settings, note),
        )
        places.append(str(annotated))
    if output is not None and output.suffix == ".parquet":
        from worker.sinks.parquet import write_parquet

        made.make(output, claim, lambda note: write_parquet(journal.read(), output, note))
    elif output is not None and output.suffix == ".json":
        from worker.sinks.coco import write_coco

        made.make(
            output,
            claim,
            lambda note: write_coco(journal.read, output, labels, note, reported=settings.labels),
        )
    journal.finish(keep=output is not None and output.suffix == ".jsonl")
    made.forget()
    if output is not None:
        places.append(str(output))
    return places


def _annotate(
    recording: Recording,
    journal: JsonlSink,
    target: Path,
    settings: ReplaySettings,
    on_complete: Callable[[Path], None],
) -> None:
    from worker.sinks.annotated_video import write_annotated

    written = 0
    frames = recording.frames // settings.stride
    with progress_bar(f"drawing {target.name}", frames) as advance:

        def on_frame() -> None:
            nonlocal written
            written += 1
            advance(written)

        write_annotated(
            upright_images(recording.path, settings.limits),
            journal.read(),
            target,
            recording.rate,
            on_frame,
            pixel_aspect=recording.pixel_aspect,
            on_complete=on_complete,
        )
