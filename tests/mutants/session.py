"""Which tests notice a mutant: the tests that execute its line, in a fork for each mutant.

A plugin of pytest that takes the place of its loop over tests. The process that has collected them
runs none itself: it forks, so that a mutant, and what it breaks, ends with the fork.
"""

import os
import pickle
import select
import signal
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import coverage
import pytest

from tests.mutants.mutation import Functions, mutants_of

ROOT = Path(__file__).parents[2]
GRACE_SECONDS, GRACE_FACTOR = 3.0, 10
"""A test hangs if it takes so much longer than it takes without a mutant."""
END = b"E"
ENOUGH_SECONDS = 20.0
"""For the tests of one mutant: what they do not notice, others hardly will."""


@dataclass
class Outcome:
    """What became of the mutants of a module."""

    killed: int = 0
    hung: int = 0
    survivors: list = field(default_factory=list)

    @property
    def mutants(self):
        """How many there were."""
        return self.killed + len(self.survivors)


class MutationSession:
    """Runs the tests once, to see what each executes and how long it takes; then the mutants."""

    def __init__(self, modules, on_survivor):
        self.outcomes = {}
        self.failing = []
        """Tests that fail without a mutant, and are left out."""
        self._modules = modules
        self._on_survivor = on_survivor
        self._failed = False

    def pytest_runtest_logreport(self, report):
        """In a fork."""
        self._failed = self._failed or report.failed

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        if session.testsfailed:
            raise session.Interrupted("a module of tests cannot be imported")
        sources = {module: (ROOT / module).read_text() for module in self._modules}
        items = {item.nodeid: item for item in session.items}
        seconds, executed = self._look(items)
        self.failing = [name for name in items if name not in seconds]
        for module, source in sources.items():
            self.outcomes[module] = self._module(module, source, items, seconds, executed[module])
        return True

    def _module(self, module, source, items, seconds, executed):
        functions = Functions(ROOT / module, source)
        lines_of = defaultdict(set)
        for line, names in executed.items():
            for name in names:
                lines_of[name].add(line)
        outcome = Outcome()
        for mutant in mutants_of(module, source):
            first, last = mutant.lines
            names = set().union(*(executed.get(line, ()) for line in range(first, last + 1)))
            chosen = _chosen(names, seconds, lines_of)
            fate = _fate(
                lambda report, m=mutant, c=chosen: self._run_mutant(
                    functions, m, [items[name] for name in c], report
                ),
                [GRACE_SECONDS + GRACE_FACTOR * seconds[name] for name in chosen],
            )
            if fate == "no change":
                continue
            if fate == "survived":
                outcome.survivors.append(mutant)
                self._on_survivor(mutant, len(chosen))
            else:
                outcome.killed += 1
                outcome.hung += fate == "hung"
        return outcome

    def _run_mutant(self, functions, mutant, items, report):
        if not functions.put_in_place(mutant):
            report(b"=")
            return
        # No items: no test executes the line, and the mutant survives.
        for item, following in zip(items, [*items[1:], None], strict=False):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            report(b"F" if self._failed else b".")
            if self._failed:
                return

    def _look(self, items):
        """Seconds by test that passes; by module and line the tests that execute it."""
        with tempfile.TemporaryDirectory() as directory:
            result = Path(directory) / "result"
            _fate(lambda report: self._look_in_fork(items, result, report), None)
            if not result.exists():
                sys.exit("the tests without a mutant did not come to their end")
            return pickle.loads(result.read_bytes())

    def _look_in_fork(self, items, result, report):
        measured = coverage.Coverage(
            data_file=None, config_file=False, include=[str(ROOT / m) for m in self._modules]
        )
        measured.start()
        seconds = {}
        following = [*list(items.values())[1:], None]
        for (name, item), next_item in zip(items.items(), following, strict=True):
            measured.switch_context(name)
            self._failed, started = False, time.monotonic()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=next_item)
            if not self._failed:
                seconds[name] = time.monotonic() - started
            report(b".")
        measured.stop()
        data = measured.get_data()
        executed = {
            module: dict(data.contexts_by_lineno(str(ROOT / module))) for module in self._modules
        }
        result.write_bytes(pickle.dumps((seconds, executed)))


def _chosen(names, seconds, lines_of):
    """Tests that pass without a mutant, in order, as many as take ENOUGH_SECONDS.

    First, quickest first, one for each set of lines of the module that tests execute: what a line
    is for may show only in what follows it, and most tests may execute it. Then the others.
    """
    first, others, ways = [], [], set()
    for name in sorted(names & seconds.keys(), key=seconds.get):
        way = frozenset(lines_of[name])
        (others if way in ways else first).append(name)
        ways.add(way)
    chosen, total = [], 0.0
    for name in first + others:
        if not chosen or total + seconds[name] <= ENOUGH_SECONDS:
            chosen.append(name)
            total += seconds[name]
    return chosen


def _fate(work, limits):
    """Run ``work`` in a fork: "survived", "killed", "hung" or "no change".

    ``limits``: seconds for each test, after which the fork is killed; None: no limit.
    """
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        try:
            work(lambda byte: os.write(writing, byte))
            os.write(writing, END)
        finally:
            os._exit(0)
    os.close(writing)
    fate = "hung"
    steps = iter(limits or ())
    try:
        while True:
            limit = None if limits is None else next(steps, GRACE_SECONDS)
            if not select.select([reading], [], [], limit)[0]:
                break
            byte = os.read(reading, 1)
            if byte in (b"F", b"="):
                fate = "killed" if byte == b"F" else "no change"
                break
            if byte in (END, b""):  # without the END, the mutant has ended the process
                fate = "survived" if byte else "killed"
                break
    finally:
        os.close(reading)
        try:
            os.killpg(process, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(process, signal.SIGKILL)  # it has not become a group yet
        os.waitpid(process, 0)
    return fate
