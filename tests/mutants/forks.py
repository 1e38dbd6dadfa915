"""Work in forks of this process: what it reports, byte by byte, decides its fate."""

import os
import select
import shutil
import signal
import tempfile
import time

END = b"E"
NEVER = float("inf")


class Fork:
    """A fork that works; its fate is "survived", "killed", "hung" or "no change" in the end.

    It has a directory of its own for temporary files: pytest empties the one that it is given.
    """

    def __init__(self, work, limits):
        """``work(report)`` reports b"." or b"F" after each test, or b"=" if nothing is changed.

        ``limits``: seconds for each test, after which the fork is killed; None: no limit.
        """
        self.fate = None
        self._limits = None if limits is None else iter(limits)
        self.reading, writing = os.pipe()
        self._directory = tempfile.mkdtemp(prefix="mutant-")
        self._process = os.fork()
        if self._process == 0:
            _work(work, writing, self._directory)
        os.close(writing)
        self._wait_for_next()

    def look(self, readable):
        """Read a report, or see that there should have been one."""
        if not readable:
            if time.monotonic() >= self.deadline:
                self.fate = "hung"
            return
        byte = os.read(self.reading, 1)
        if byte in (b"F", b"="):
            self.fate = "killed" if byte == b"F" else "no change"
        elif byte in (END, b""):  # without the END, the mutant has ended the process
            self.fate = "survived" if byte else "killed"
        else:
            self._wait_for_next()

    def wait(self):
        """Wait for its end, however long that takes."""
        while self.fate is None:
            self.look(readable=True)
        self.end()

    def end(self):
        """Kill what is left of it, and of the processes that it started."""
        os.close(self.reading)
        try:
            os.killpg(self._process, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(self._process, signal.SIGKILL)  # it has not become a group yet
        os.waitpid(self._process, 0)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _wait_for_next(self):
        self.deadline = NEVER
        if self._limits is not None:
            self.deadline = time.monotonic() + next(self._limits, 3.0)


def as_they_end(next_trial, jobs):
    """(trial, fate) of each that ``next_trial()`` gives, ``jobs`` at once; None: none for now."""
    running = {}
    try:
        while True:
            while len(running) < jobs and (trial := next_trial()) is not None:
                fork = Fork(trial.work, trial.limits)
                running[fork.reading] = trial, fork
            if not running:
                return
            first = min(fork.deadline for _, fork in running.values())
            wait = None if first == NEVER else max(first - time.monotonic(), 0)
            ready = select.select(list(running), [], [], wait)[0]
            for reading, (trial, fork) in list(running.items()):
                fork.look(reading in ready)
                if fork.fate is not None:
                    del running[reading]
                    fork.end()
                    yield trial, fork.fate
    finally:
        for _, fork in running.values():
            fork.end()


def _work(work, writing, directory):
    """In the fork; does not return."""
    os.setsid()
    os.environ["TMPDIR"] = tempfile.tempdir = directory
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        work(lambda byte: os.write(writing, byte))
        os.write(writing, END)
    finally:
        os._exit(0)
