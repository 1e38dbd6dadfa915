"""`make mutants`: changes the code in many small ways, and lists the changes that no test notices.

Ends with 1 if less than KILLED_SHARE of them are noticed, if a survivor is not in explained.toml,
or if that file explains one that does not exist or is killed by now.
"""

import json
import os
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.session import ROOT, MutationSession

KILLED_SHARE = 0.85
EXPLAINED = Path(__file__).with_name("explained.toml")
PLACES = (
    "worker/pipeline/*.py",
    "worker/publishing/*.py",
    "worker/sinks/*.py",
    "worker/consumer.py",
    "worker/consuming/*.py",
    "worker/sources/*.py",
    "worker/settings/naming.py",
    "ssd_core/ops/decode_nms_reference.py",
)
LEFT_OUT = {  # they show what FFmpeg and PyAV do, not decisions of their own
    "worker/sources/capabilities.py",
    "worker/sources/conversion.py",
    "worker/sources/picture.py",
    "worker/sources/planes.py",
    "worker/sinks/annotated_video.py",
}
TESTS = ["tests/unit/worker", "tests/contract", "tests/integration/test_consumer.py",
         "tests/integration/test_consumer_groups.py",
         "tests/integration/test_consumer_properties.py", "tests/faults/test_consumers.py",
         "tests/faults/test_consumers_connections.py", "tests/faults/test_consumers_keys.py",
         # Alone: hundreds of quick tests compare it with others, and would use up the seconds.
         "tests/unit/ssd_core/ops/test_decode_nms_reference.py"]  # fmt: skip


def modules(wanted):
    """The modules to mutate that match one of the patterns; without any, all."""
    found = {
        str(file.relative_to(ROOT)) for place in PLACES for file in ROOT.glob(place)
    } - LEFT_OUT
    if wanted:
        found &= {str(file.relative_to(ROOT)) for w in wanted for file in ROOT.glob(w)}
    return sorted(found)


def explained():
    """(where, old, new) of the survivors that are explained."""
    entries = tomllib.loads(EXPLAINED.read_text())["survivor"] if EXPLAINED.exists() else []
    return Counter((e["where"], e["old"], e["new"]) for e in entries)


def report(outcomes, reasons):
    """Print the table; return what is wrong."""
    width = max(map(len, outcomes))
    print(f"\n{'module':{width}}  mutants  killed  (hung)  survived  explained")
    totals = Counter()
    survivors = set()
    for module, outcome in outcomes.items():
        keys = [(m.where, m.old, m.new) for m in outcome.survivors]
        survivors.update(keys)
        row = {"mutants": outcome.mutants, "killed": outcome.killed, "hung": outcome.hung,
               "survived": len(keys), "explained": sum(key in reasons for key in keys)}  # fmt: skip
        totals.update(row)
        print(_row(module, row, width))
    print(_row("all", totals, width))
    share = totals["killed"] / max(totals["mutants"], 1)
    print(f"killed: {share:.1%}")
    if share < KILLED_SHARE:
        yield f"less than {KILLED_SHARE:.0%} are killed: write tests for the survivors"
    if unexplained := survivors - reasons.keys():
        yield (
            f"{len(unexplained)} survivors are not explained: write a test, or say in "
            f"{EXPLAINED.relative_to(ROOT)} why none can notice"
        )
    for key in reasons:
        if key[0].split()[0] in outcomes and key not in survivors:
            yield f"{EXPLAINED.name} explains what is no survivor, remove it: {' | '.join(key)}"


def _row(name, row, width):
    return (
        f"{name:{width}}  {row['mutants']:7}  {row['killed']:6}  {row['hung']:6}"
        f"  {row['survived']:8}  {row['explained']:9}"
    )


def main():
    """From the environment: MODULES and TESTS, patterns and paths, by blanks; JOBS, a number."""
    chosen = modules(os.environ.get("MODULES", "").split())
    if not chosen:
        sys.exit("MODULES: nothing to mutate there: give paths such as worker/pipeline/*.py")
    tests = os.environ.get("TESTS", "").split() or TESTS
    reasons = explained()

    def show(mutant, tests_run):
        if (mutant.where, mutant.old, mutant.new) not in reasons:
            print(f"\n[[survivor]]  # line {mutant.lines[0]}, {tests_run} tests")
            for name in ("where", "old", "new"):
                print(f"{name} = {json.dumps(getattr(mutant, name), ensure_ascii=False)}")
            print('why = ""', flush=True)

    session = MutationSession(
        chosen,
        lambda mutant: (mutant.where, mutant.old, mutant.new) in reasons,
        show,
        jobs=int(os.environ.get("JOBS", "1")),
    )
    status = pytest.main(
        [*tests, "-q", "-s", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist",
         "-W", "ignore::pytest.PytestUnhandledThreadExceptionWarning", f"--rootdir={ROOT}"],
        plugins=[session],
    )  # fmt: skip
    if not session.outcomes:
        sys.exit(int(status) or 1)
    for name in session.failing:
        print(f"left out, as it fails without a mutant: {name}")
    problems = list(report(session.outcomes, reasons))
    print(*problems, sep="\n")
    sys.exit(bool(problems))


main()
