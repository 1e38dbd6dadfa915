"""Runs cases in a child process, and reports the outcome of each, even if it killed the child.

Takes a function that plays one file; gives an Outcome per case. A crash (signal), a hang past
``hang_seconds`` and memory past ``memory_bytes`` end the child; the next case gets a new one. Knows
nothing of media.
"""

import multiprocessing
import re
import signal
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.05
LEAVING_SECONDS = 5


@dataclass(frozen=True)
class Outcome:
    """The outcome of a case."""

    text: str
    """In a few words, the same for similar cases."""
    finding: bool = False
    """Whether it must never happen."""
    detail: str = ""
    seconds: float = 0.0


class Watched:
    """A child that plays files one after another; replaced if it is lost."""

    def __init__(self, play, *, hang_seconds=10.0, memory_bytes=1 << 30) -> None:
        """``play(path, case)`` returns a few words; a module-level function, to be picklable."""
        self._play = play
        self._hang_seconds = hang_seconds
        self._memory_bytes = memory_bytes
        self._context = multiprocessing.get_context("spawn")
        self._process = None
        self.peak_bytes = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._end()

    def play(self, path: Path, case: int) -> Outcome:
        """One file."""
        if self._process is None:
            self._start()
        started = time.monotonic()
        self._pipe.send((str(path), case))
        while not self._pipe.poll(POLL_SECONDS):
            if not self._process.is_alive() and not self._pipe.poll():
                return self._lost(f"crash: {self._how_it_died()}")
            if self._measured() > self._memory_bytes:
                return self._lost("memory", f"{self._measured() >> 20} MiB resident")
            if time.monotonic() - started > self._hang_seconds:
                return self._lost("hang", f"{self._hang_seconds} s")
        seconds = time.monotonic() - started
        try:
            text, finding, detail = self._pipe.recv()
        except EOFError:
            return self._lost(f"crash: {self._how_it_died()}")
        if self._measured() > self._memory_bytes:
            return self._lost("memory", f"{self._measured() >> 20} MiB resident, after {text}")
        return Outcome(text, finding, detail, seconds)

    def _start(self):
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(theirs, self._play), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()  # it is ready: imports do not count as the first case's time

    def _lost(self, text, detail="") -> Outcome:
        self._end()
        return Outcome(text, True, detail, self._hang_seconds if text == "hang" else 0.0)

    def _end(self):
        if self._process is None:
            return
        self._process.kill()
        self._process.join()
        self._process.close()
        self._pipe.close()
        self._process = None

    def _how_it_died(self) -> str:
        self._process.join(LEAVING_SECONDS)
        code = self._process.exitcode
        return signal.Signals(-code).name if code and code < 0 else f"exit code {code}"

    def _measured(self) -> int:
        """The peak resident memory of the child."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return 0
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        peak = int(found[1]) * 1024 if found else 0
        self.peak_bytes = max(self.peak_bytes, peak)
        return peak


def _serve(pipe, play):
    pipe.send("ready")
    while True:
        try:
            path, case = pipe.recv()
        except EOFError:
            return
        try:
            answer = (play(Path(path), case), False, "")
        except Exception as error:  # the kind of finding that fuzzing looks for
            answer = (f"{type(error).__name__}", True, traceback.format_exc())
        pipe.send(answer)
