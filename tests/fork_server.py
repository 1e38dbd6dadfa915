"""Starts `ssd-worker` commands without their imports: `python -m tests.fork_server DESCRIPTOR`.

Takes requests from a socket, each a command line, a directory, an environment and three descriptors
(stdout, stderr, and one that gets the process id and, later, the exit code). Forks for each. Has
imported what a command imports, and has done nothing else: a thread would not survive the fork.
"""

import contextlib
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

LARGEST_REQUEST = 1 << 20
MODULES = (
    "worker.cli",
    *(
        f"worker.commands.{name}"
        for name in (
            "run",
            "replay",
            "train",
            "subscribe",
            "dashboard",
            "coverage",
            "spool",
            "forget",
            "models",
            "doctor",
            "evaluate",
            "live_table",
            "report",
        )
    ),
    "ssd_core.detector",
    "worker.pipeline.detection",
)


def main(descriptor):
    for module in MODULES:
        importlib.import_module(module)
    threads = len([*Path("/proc/self/task").iterdir()])
    assert threads == 1, f"{threads} threads: a fork has one"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    with socket.socket(fileno=descriptor) as requests:
        while True:
            message, descriptors, _, _ = socket.recv_fds(requests, LARGEST_REQUEST, 3)
            if not message:
                os._exit(0)  # to take PyTorch down in order takes seconds
            if os.fork() == 0:
                requests.close()
                supervise(json.loads(message), *descriptors)
            for each in descriptors:
                os.close(each)


def supervise(request, stdout, stderr, status):
    """Forks the command, reports its process id and its exit code, and ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    command = os.fork()
    if command == 0:
        os.close(status)
        run(request, stdout, stderr)
    os.close(stdout)
    os.close(stderr)
    with contextlib.suppress(BrokenPipeError):  # the tests have ended before it
        os.write(status, b"%d\n" % command)
        _, code = os.waitpid(command, 0)
        os.write(status, b"%d\n" % os.waitstatus_to_exitcode(code))
    os._exit(0)


def run(request, stdout, stderr):
    """What `exec` would do, and the command."""
    from worker.cli import run_and_exit

    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for source, target in ((stdout, 1), (stderr, 2)):
            os.dup2(source, target)
            os.close(source)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        sys.argv = ["ssd-worker", *request["arguments"]]
        run_and_exit()
    finally:
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
