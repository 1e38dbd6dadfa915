"""Broken media against the sources: no crash, no hang, no memory past a limit, always a reason.

    python -m tests.fuzz.fuzz_media --cases 2000 --seed 0 [--only CASE] [--keep DIR]

Each case is a real clip that was broken at random, by seed and number, and is read as a replay does
and, one in four, as a camera. It must end with frames and a reason code, or with an error of one
line. Prints a table of what became of them, and JSON as the last line. Exit code 1: findings.
"""

import argparse
import itertools
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.mutations import KINDS, broken, make_clips
from tests.fuzz.watched import Watched
from worker.errors import SourceError, UsageError
from worker.events import ModelInfo, parse_event
from worker.frames import Frame, FrameBatch, StreamDown, StreamLate, StreamUp
from worker.pipeline.event_maker import EventMaker
from worker.sources import connection, live
from worker.sources.recording import RecordingSource, probe_recording

ROOT = Path(__file__).parents[2]
WALKWAY = ROOT / "samples" / "walkway.mp4"
SIZE = (120, 160)
MODEL = ModelInfo(name="none", digest="sha256:0")
AS_CAMERA = 4
"""One in this many cases is played live."""
RECORDING_REASONS = {"end_of_file", "truncated", "damaged", "over_limit"}
CAMERA_REASONS = {
    "end_of_file", "over_limit", "closed", "invalid_data", "no_video", "error", "timeout", "stall",
    "timestamps",
}  # fmt: skip


def play(path: Path, case: int) -> str:
    """Read a file to its end; the outcome in a few words. Raises what must not happen."""
    logging.getLogger("worker").handlers = [FAILURES]
    try:
        if case % AS_CAMERA == AS_CAMERA - 1:
            return play_as_camera(path)
        return play_as_recording(path)
    except (SourceError, UsageError) as error:
        if "\n" in str(error) or str(path) not in str(error):
            raise AssertionError(f"not one line that names the file: {error}") from error
        return f"{type(error).__name__}"


def play_as_recording(path: Path) -> str:
    recording = probe_recording(path, "clip")
    down = checked(RecordingSource(recording, SIZE), RECORDING_REASONS, recording.digest)
    return f"frames, {down.state}: {down.reason}"


def due_at_once(pace, seconds) -> None:
    pace.played_at = time.monotonic()


def play_as_camera(path: Path) -> str:
    connection.Pace.wait_for = due_at_once  # time passes in other tests
    FAILURES.last = ""
    source = live.LiveSource("clip", str(path), SIZE, itertools.count(1).__next__)
    down = checked(source, CAMERA_REASONS)
    source.stop()
    return f"live, {'frames, ' if down.frames else ''}{down.state}: {down.reason}"


def checked(source, reasons, digest=None) -> StreamDown:
    """The first StreamDown, after frames that are valid and make valid events."""
    up = frames = dropped = 0
    maker = EventMaker(MODEL, recording_digest=digest, publish_all=True)
    for item in source:
        for event in maker.make(FrameBatch((item,)), [[]]):
            if parse_event(event.to_json()) != event:
                raise AssertionError(f"an event that is read as another: {event}")
        if isinstance(item, StreamDown):
            if item.reason not in reasons:
                raise AssertionError(f"reason {item.reason}: {FAILURES.last}")
            # Of a camera, what is out of order or late is decoded and dropped.
            if "\n" in item.detail or frames + item.dropped + dropped != item.frames:
                raise AssertionError(f"{frames} frames came, and then {item}")
            return item
        if isinstance(item, StreamUp):
            up += 1
            continue
        if not isinstance(item, (Frame, StreamLate)) or not up:
            raise AssertionError(f"not expected: {item}")
        dropped += item.dropped
        if isinstance(item, StreamLate):
            continue
        if item.frame_index != frames + dropped or item.image.shape != (*SIZE, 3):
            raise AssertionError(f"after {frames} frames: {item}")
        frames += 1
    raise AssertionError("it ended without a reason")


class _Failures(logging.Handler):
    """Replaces the log, and records the exceptions of a camera's reader."""

    last = ""

    def emit(self, record):
        if record.exc_info:
            self.last = logging.Formatter().formatException(record.exc_info)


FAILURES = _Failures()


def fuzz(cases, seed, *, kinds=tuple(KINDS), keep=None, play=play, report=None, **limits) -> dict:
    """Run the cases; their outcomes."""
    outcomes, findings, slowest = Counter(), [], 0.0
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, Watched(play, **limits) as child:
        clips = make_clips(WALKWAY, Path(scratch), kinds)
        for case in cases:
            made = broken(seed, case, clips)
            path = Path(scratch) / f"case-{seed}-{case}{made.ending}"
            path.write_bytes(made.content)
            outcome = child.play(path, case)
            outcomes["FINDING " * outcome.finding + outcome.text] += 1
            slowest = max(slowest, outcome.seconds)
            if outcome.finding:
                findings.append(
                    {"seed": seed, "case": case, "how": made.how, "ending": made.ending,
                     "outcome": outcome.text, "detail": outcome.detail}
                )  # fmt: skip
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / path.name).write_bytes(made.content)
            path.unlink()
            if report is not None:
                report(case, made, outcome)
        return {
            "cases": sum(outcomes.values()),
            "seed": seed,
            "outcomes": dict(outcomes.most_common()),
            "findings": findings,
            "seconds": round(time.monotonic() - started, 1),
            "slowest_case_seconds": round(slowest, 2),
            "peak_rss_bytes": child.peak_bytes,
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this case alone")
    parser.add_argument("--keep", type=Path, help="directory for the files of findings")
    options = parser.parse_args()

    def report(case, made, outcome):
        if outcome.finding or options.only is not None:
            print(f"case {case} ({made.how}, {made.ending}): {outcome.text}\n{outcome.detail}")

    cases = range(options.cases) if options.only is None else [options.only]
    result = fuzz(cases, options.seed, keep=options.keep, report=report)
    for text, count in result["outcomes"].items():
        print(f"{count:6} {text}")
    print(json.dumps(result))
    return 1 if result["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
