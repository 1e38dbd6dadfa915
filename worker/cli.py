"""The command line: picks the command, sets up logging, turns errors into one line and a code.

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage or
settings, 70 no progress (the watchdog's), 130 interrupted.
"""

import contextlib
import os
import signal
import sys
from importlib.metadata import version
from typing import Any, NoReturn, cast

from setproctitle import setproctitle

from worker.errors import UsageError, WorkerError
from worker.logs import set_up_logging
from worker.secrecy.redaction import (
    hide,
    redact,
    redact_argument,
    redact_arguments,
    redact_tracebacks,
)
from worker.settings.coverage import CoverageSettings
from worker.settings.dashboard import DashboardSettings
from worker.settings.fields import (
    COMMANDS,
    CamerasSettings,
    DoctorSettings,
    ForgetSettings,
    ModelsSettings,
    ReplaySettings,
    RunSettings,
    SpoolSettings,
    SubscribeSettings,
)
from worker.settings.learning import EvaluateSettings, TrainSettings
from worker.settings.loading import load_settings
from worker.settings.reports import ReportSettings

USAGE = """\
usage: ssd-worker COMMAND ...

  run SOURCE...          watch cameras until stopped, publish to Redis
  replay PATH...         analyse every frame of recordings: to Redis or files, resumable
  train DATA...          learn own classes from labelled images
  subscribe [CAMERA...]  print events as JSON Lines, or show a live table
  dashboard              serve a web page that shows all cameras live
  report SOURCE...       one HTML page about recordings or cameras
  evaluate DATA [WEIGHTS...]
                         measure a model on labelled images, or compare two
  coverage [CAMERA...]   tell when cameras were watched, and when not and why
  cameras FILE           check a file of cameras: what would run, and what is wrong in it
  spool [list|purge]     events that wait on disk for a Redis server
  forget ID...           delete what Redis holds of cameras and replays
  models                 list the models
  doctor                 check this machine: device, decoders, Redis

Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 70 no progress (--watchdog-seconds),
130 interrupted.

ssd-worker COMMAND --help lists the options of a command. Every option is also an environment
variable (--max-batch: SSD_WORKER_MAX_BATCH) and a key of the --config file (max_batch).
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _hide_secrets(arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else UsageError.exit_code
    if arguments[0] in ("-V", "--version"):
        print(f"ssd-worker {version('ssd-worker')}")
        return 0
    try:
        return _run(arguments[0], arguments[1:])
    except WorkerError as error:
        _print_error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has closed it, as `head` does: keep Python from failing on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        _print_error(f"{what}{error.strerror or error}")
        return WorkerError.exit_code


def _print_error(message: str) -> None:
    """In one line, though a name in it may have several."""
    print(f"ssd-worker: {redact(' '.join(message.splitlines()))}", file=sys.stderr)


def _hide_secrets(arguments: list[str]) -> None:
    """Comes before any output: other users see command lines, and logs are passed on."""
    title = " ".join(["ssd-worker", *redact_arguments(arguments)])
    setproctitle(title.encode(errors="replace").decode())  # file names may not be UTF-8
    for argument in arguments:
        hide(argument)
    redact_tracebacks()


def _run(command: str, arguments: list[str]) -> int:
    if command not in COMMANDS:
        raise UsageError(
            f"unknown command {redact_argument(command)!r}: expected {', '.join(COMMANDS)}"
        )
    settings = load_settings(COMMANDS[command], command, arguments)
    # Outside a pipeline (loading, drawing), SIGTERM ends the process as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    set_up_logging(settings.log_level, as_json=settings.log_json)
    # Each command imports what it needs, so that `subscribe` does not wait for torch.
    match settings:
        case RunSettings():
            if settings.camera_files:  # a reload that comes too early or too late must not end it
                signal.signal(signal.SIGHUP, lambda *_: None)
            from worker.commands.run import run_live

            return run_live(settings)
        case ReplaySettings():
            from worker.commands.replay import run_replay

            return run_replay(settings)
        case TrainSettings():
            from worker.commands.train import run_train

            return run_train(settings)
        case SubscribeSettings():
            from worker.commands.subscribe import run_subscribe

            return run_subscribe(settings)
        case DashboardSettings():
            from worker.commands.dashboard import run_dashboard

            return run_dashboard(settings)
        case ReportSettings():
            from worker.commands.report import run_report

            return run_report(settings)
        case CoverageSettings():
            from worker.commands.coverage import run_coverage

            return run_coverage(settings)
        case EvaluateSettings():
            from worker.commands.evaluate import run_evaluate

            return run_evaluate(settings)
        case CamerasSettings():
            from worker.commands.cameras import check_cameras

            return check_cameras(settings)
        case SpoolSettings():
            from worker.commands.spool import run_spool

            return run_spool(settings)
        case ForgetSettings():
            from worker.commands.forget import run_forget

            return run_forget(settings)
        case ModelsSettings():
            from worker.commands.models import print_models

            return print_models()
        case DoctorSettings():
            from worker.commands.doctor import run_doctor

            return run_doctor(settings)
    raise AssertionError(command)


def run_and_exit() -> NoReturn:
    """The whole process: runs a command and exits with its code.

    Exits immediately, bypassing Python's shutdown: threads may still be inside FFmpeg or PyTorch,
    and unwinding them there aborts the process (seen as "terminate called" and signal 6).
    """
    try:
        code = main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # a bug: reported as without this function
        sys.excepthook(*cast(Any, sys.exc_info()))
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # its reader may have closed it
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    run_and_exit()
