"""Coverage-guided fuzzing of the event parser and of the settings, with atheris (libFuzzer).

    python -m tests.fuzz.fuzz_events CORPUS -max_total_time=30

An input is ``e`` and the JSON of an event, or ``s``, a command and its arguments, divided by line
breaks. It must end with an event or a ValueError, with settings or a UsageError of one line;
anything else stops the run. The parser of JSON itself is compiled code, whose branches are not
seen; those of Python are, argparse's and pydantic-settings' among them. CORPUS is a directory for
what reaches new code, and for what stops the run.
"""

import contextlib
import io
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["worker.events", "worker.settings.loading", "argparse", "pydantic_settings", "tomllib"]
):
    from worker.errors import UsageError
    from worker.events import parse_event
    from worker.settings.fields import COMMANDS
    from worker.settings.loading import load_settings

SEEDS = (
    b'e{"specversion":"1.0","id":"a/1/0","source":"ssd-worker/a","type":"ssd.camera.v1","data":'
    b'{"camera_id":"a","mode":"live","epoch":1,"seq":0,"state":"up","reason":"connected",'
    b'"frames":0,"dropped":0}}',
    b"srun\nrtsp://host/x\n--labels\nPerson,Car\n--max-pixels\n100\n--no-loop",
    b"sreplay\na.mp4\n--output\nx.jsonl\n--stride\n3\n--fps=2",
    b"ssubscribe\ngate\n--from\nstart\n--group\ng\n--redis-url\nredis://:s3cret@h",
    b"sdoctor\n--device=cpu\n--embedded-port\n1",
    b"smodels\n--log-level\ninfo\n--log-json",
)


@atheris.instrument_func
def one_input(data: bytes) -> None:
    """An event or settings, by the first byte."""
    if data[:1] == b"e":
        an_event(data[1:])
    elif data[:1] == b"s":
        command, *arguments = data[1:].decode("utf-8", "surrogateescape").split("\n")
        if command in COMMANDS and "--config" not in "".join(arguments):
            settings(command, arguments)


@atheris.instrument_func
def an_event(content: bytes) -> None:
    """What is parsed must survive being written and read."""
    try:
        event = parse_event(content)
    except ValueError:
        return
    written = event.to_json()
    if parse_event(written).to_json() != written:
        raise AssertionError(written)


@atheris.instrument_func
def settings(command: str, arguments: list[str]) -> None:
    """The settings of a command line."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # --help prints
            load_settings(COMMANDS[command], command, arguments)
    except UsageError as error:
        if len(str(error).splitlines()) != 1:
            raise AssertionError(str(error)) from error
    except SystemExit as leaving:
        if leaving.code:
            raise AssertionError(f"exit code {leaving.code}") from leaving


if __name__ == "__main__":
    corpus = Path(sys.argv[1])
    for index, seed in enumerate(SEEDS):
        (corpus / f"seed-{index}").write_bytes(seed)
    atheris.Setup([*sys.argv, f"-artifact_prefix={corpus}/"], one_input)
    atheris.Fuzz()
