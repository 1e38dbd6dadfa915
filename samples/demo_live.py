"""`make demo-live`: a worker that watches the sample clip as a camera, and the page that shows it.

Starts both, prints the page's address once it answers, and ends both on Ctrl-C, or when one of them
ends. What they have to say they say themselves, on stderr.
"""

import argparse
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

CLIP = Path(__file__).with_name("walkway.mp4")
OTHER_PORT = "choose another port, as in: make demo-live LISTEN=8081"
POLL_SECONDS = 0.1
STOP_SECONDS = 15.0
"""A worker stops within 4 s, also with a frozen Redis."""


def main():
    """Run until stopped; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--listen", default="127.0.0.1:8080", help="HOST:PORT or PORT of the page")
    listen = parser.parse_args().listen
    listen = listen if ":" in listen else f"127.0.0.1:{listen}"
    if answers(listen):
        say(f"something listens at {listen} already: {OTHER_PORT}")
        return 2
    stopped = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: stopped.append(number))
    processes = [start("dashboard", "--listen", listen)]
    try:
        if not wait_until(lambda: answers(listen), processes, stopped):
            return exit_code(processes, stopped)
        processes.append(start("run", f"walkway={CLIP}", "--loop", "--snapshots"))
        say(f"The page: http://{listen}    Ctrl-C ends it, and the worker")
        wait_until(lambda: False, processes, stopped)
        return exit_code(processes, stopped)
    finally:
        end(processes)


def start(*arguments):
    """Start an `ssd-worker` command with the Python of this script."""
    return subprocess.Popen([sys.executable, "-m", "worker.cli", *arguments], cwd=CLIP.parents[1])


def wait_until(condition, processes, stopped):
    """Whether the condition came true before a process ended or a signal came."""
    while not stopped and all(process.poll() is None for process in processes):
        if condition():
            return True
        time.sleep(POLL_SECONDS)
    return False


def answers(listen):
    """Whether something accepts connections there."""
    host, _, port = listen.rpartition(":")
    try:
        socket.create_connection((host.strip("[]") or "127.0.0.1", int(port)), 1).close()
    except (OSError, ValueError):  # what is no address, the command itself explains
        return False
    return True


def exit_code(processes, stopped):
    """0 if a signal ended it, else that of the process that ended first."""
    if stopped:
        return 0
    return next(process.returncode for process in processes if process.poll() is not None) or 0


def end(processes):
    """Stop what runs, in order; by force if that takes too long."""
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def say(text):
    """One line for people, between the log lines of both."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
