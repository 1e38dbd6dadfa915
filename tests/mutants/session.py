"""Which tests notice a mutant: the tests that execute its line, in a fork for each mutant.

A plugin of pytest that takes the place of its loop over tests. The process that has collected them
runs none itself: it forks, so that a mutant, and what it breaks, ends with the fork.

What became of a mutant is kept (known.py), and not tried again as long as its module and the files
of the tests that execute it are the same: a run of hours can be interrupted.
"""

import pickle
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import coverage
import pytest

from tests.mutants.forks import Fork, as_they_end
from tests.mutants.known import KnownFates
from tests.mutants.mutation import Functions, Mutant, mutants_of

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache"
GRACE_SECONDS, GRACE_FACTOR = 3.0, 10
"""A test hangs if it takes so much longer than it takes without a mutant."""
ENOUGH_SECONDS = 120.0
"""For the tests of one mutant: what they do not notice, others hardly will."""
ENOUGH_IF_EXPLAINED_SECONDS = 4.0
"""For one that is expected to survive: to see that its explanation still holds."""
TRIES = 3
"""Of a mutant that is expected to survive: a test that fails by chance has not noticed it."""


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


@dataclass
class Trial:
    """A mutant that is to be tried."""

    mutant: Mutant
    key: str
    tests: int
    """How many are run, unless one notices it."""
    work: Callable
    limits: list
    fates: list = field(default_factory=list)
    """What became of it so far."""


class MutationSession:
    """Runs the tests once, to see what each executes and how long it takes; then the mutants."""

    def __init__(self, modules, is_explained, on_survivor, jobs=1):
        """``jobs``: how many mutants are tried at once."""
        self.outcomes = {}
        self.failing = []
        """Tests that fail without a mutant, and are left out."""
        self._modules = modules
        self._is_explained = is_explained
        self._on_survivor = on_survivor
        self._jobs = jobs
        self._known = KnownFates(CACHE / "mutants.jsonl")
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
        self.outcomes = {module: Outcome() for module in sources}
        trials, again = self._trials(sources, items, seconds, executed), deque()
        for trial, fate in as_they_end(
            lambda: again.popleft() if again else next(trials, None), self._jobs
        ):
            trial.fates.append(fate)
            if (
                fate in ("killed", "hung")
                and self._is_explained(trial.mutant)
                and len(trial.fates) < TRIES
            ):
                again.append(trial)
                continue
            self._known.keep(trial.key, fate)
            self._count(trial.mutant, fate, trial.tests)
        return True

    def _trials(self, sources, items, seconds, executed):
        """Those whose fate is not known; what is known is counted."""
        for module, source in sources.items():
            functions = Functions(ROOT / module, source)
            lines_of = defaultdict(set)
            for line, names in executed[module].items():
                for name in names:
                    lines_of[name].add(line)
            files = sorted({str(items[name].path) for name in lines_of})
            digest = self._known.digest([Path(file) for file in files])
            for mutant in mutants_of(module, source):
                first, last = mutant.lines
                names = set().union(
                    *(executed[module].get(line, ()) for line in range(first, last + 1))
                )
                enough = ENOUGH_SECONDS
                if self._is_explained(mutant):
                    enough = ENOUGH_IF_EXPLAINED_SECONDS
                chosen = _chosen(names, seconds, lines_of, enough)
                key = self._known.key(mutant.path, mutant.source, digest)
                fate = self._known.get(key)
                if fate == "killed" and self._is_explained(mutant):
                    fate = None  # a test may have failed by chance: it is tried again
                if fate is not None:
                    self._count(mutant, fate, len(chosen))
                    continue
                yield Trial(
                    mutant,
                    key,
                    len(chosen),
                    lambda report, m=mutant, c=chosen, f=functions: self._run_mutant(
                        f, m, [items[name] for name in c], report
                    ),
                    [GRACE_SECONDS + GRACE_FACTOR * seconds[name] for name in chosen],
                )

    def _count(self, mutant, fate, tests):
        outcome = self.outcomes[mutant.path]
        if fate == "hung" and self._is_explained(mutant):
            fate = "survived"  # the change may cost time, and a busy machine takes longer, too
        if fate == "survived":
            outcome.survivors.append(mutant)
            self._on_survivor(mutant, tests)
        elif fate != "no change":
            outcome.killed += 1
            outcome.hung += fate == "hung"

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
        """Seconds by test that passes; by module and line the tests that execute it.

        Kept as well, if all pass, as long as the code, these tests and the modules are the same.
        """
        kept, part = CACHE / "mutants.look", CACHE / "mutants.look.part"
        code = self._known.digest(
            file
            for place in ("worker", "ssd_core", "tests")
            for file in (ROOT / place).rglob("*.py")
        )
        if kept.exists():
            of, modules, look = pickle.loads(kept.read_bytes())
            if of == (code, list(items)) and modules >= set(self._modules):
                return look
        part.unlink(missing_ok=True)
        Fork(lambda report: self._look_in_fork(items, part, report), None).wait()
        if not part.exists():
            sys.exit("the tests without a mutant did not come to their end")
        look = pickle.loads(part.read_bytes())
        if look[0].keys() == items.keys():
            part.write_bytes(pickle.dumps(((code, list(items)), set(self._modules), look)))
            part.replace(kept)
        return look

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


def _chosen(names, seconds, lines_of, enough):
    """Tests that pass without a mutant, in order, as many as take ``enough`` seconds.

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
        if not chosen or total + seconds[name] <= enough:
            chosen.append(name)
            total += seconds[name]
    return chosen
