"""The output files of a replay: checked before it starts, made from its journal when it is done.

Takes settings and the finished JSON Lines; gives Parquet, COCO and annotated video. Knows nothing
of detectors and Redis.
"""

from collections.abc import Sequence
from pathlib import Path

from worker.commands.console import progress_bar
from worker.errors import UsageError
from worker.settings.fields import ReplaySettings
from worker.sinks.jsonl import JsonlSink
from worker.sources.recording import Recording, upright_images


def check_outputs(settings: ReplaySettings, recordings: Sequence[Recording]) -> None:
    """Raise UsageError for outputs that cannot be written, before anything is analysed."""
    for path in (settings.output, settings.annotate):
        if path is None:
            continue
        if path.exists() and not settings.overwrite:
            raise UsageError(f"{path}: exists already: choose another name or give --overwrite")
        if path.is_dir():
            raise UsageError(f"{path}: is a directory: give the name of a file in it")
        if not path.parent.is_dir():
            raise UsageError(f"{path}: the directory {path.parent} does not exist: create it")
        if path.exists() and any(path.samefile(recording.path) for recording in recordings):
            raise UsageError(f"{path}: is the recording itself: choose another name")
        _check_writable(path)


def _check_writable(path: Path) -> None:
    probe = path.with_name(f".{path.name}.probe")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"{path}: cannot write there ({error.strerror}): choose another place"
        ) from error


def finish_outputs(
    recordings: Sequence[Recording],
    journal: JsonlSink,
    labels: Sequence[str],
    settings: ReplaySettings,
) -> list[str]:
    """Make the outputs from the finished journal; returns their names."""
    places = []
    if settings.annotate is not None:
        _annotate(recordings[0], journal, settings.annotate, settings)
        places.append(str(settings.annotate))
    output = settings.output
    if output is not None and output.suffix == ".parquet":
        from worker.sinks.parquet import write_parquet

        write_parquet(journal.read(), output)
    elif output is not None and output.suffix == ".json":
        from worker.sinks.coco import write_coco

        write_coco(journal.read, output, labels)
    journal.finish(keep=output is not None and output.suffix == ".jsonl")
    if output is not None:
        places.append(str(output))
    return places


def _annotate(
    recording: Recording, journal: JsonlSink, target: Path, settings: ReplaySettings
) -> None:
    from worker.sinks.annotated_video import write_annotated

    written = 0
    frames = recording.frames // settings.stride
    with progress_bar(f"drawing {target.name}", frames) as advance:

        def on_frame() -> None:
            nonlocal written
            written += 1
            advance(written)

        images = upright_images(recording.path, settings.limits)
        write_annotated(
            images,
            journal.read(),
            target,
            recording.rate,
            on_frame,
            pixel_aspect=recording.pixel_aspect,
        )
