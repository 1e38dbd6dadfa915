import os
import time
from types import SimpleNamespace

from tests.mutants.forks import as_they_end
from tests.mutants.known import KnownFates

SOON = 0.3


def trial(name, work, limits=(5.0,)):
    return SimpleNamespace(name=name, work=work, limits=limits)


def fates(trials, jobs=2):
    waiting = list(trials)
    found = as_they_end(lambda: waiting.pop(0) if waiting else None, jobs)
    return {trial.name: fate for trial, fate in found}


def test_a_fork_says_what_became_of_its_mutant():
    def passes(report):
        report(b".")

    def fails(report):
        report(b".")
        report(b"F")
        time.sleep(60)

    found = fates(
        [
            trial("passes", passes),
            trial("fails", fails, (5.0, 5.0)),
            trial("ends the process", lambda report: os._exit(0)),
            trial("raises", lambda report: 1 / 0),
            trial("changes nothing", lambda report: report(b"=")),
            trial("hangs", lambda report: time.sleep(60), (SOON,)),
            trial("hangs in its second test", lambda report: [report(b"."), time.sleep(60)],
                  (5.0, SOON)),
        ]
    )  # fmt: skip
    assert found == {
        "passes": "survived",
        "fails": "killed",
        "ends the process": "killed",
        "raises": "killed",
        "changes nothing": "no change",
        "hangs": "hung",
        "hangs in its second test": "hung",
    }


def test_a_trial_that_is_given_again_while_others_run_is_tried_again():
    waiting = [
        trial("first", lambda report: None),
        trial("second", lambda report: time.sleep(SOON)),
    ]
    seen = []
    for each, _ in as_they_end(lambda: waiting.pop(0) if waiting else None, 2):
        seen.append(each.name)
        if len(seen) == 2:  # nothing waits and nothing runs
            waiting.append(trial("third", lambda report: None))
    assert seen == ["first", "second", "third"]


def test_a_fate_is_known_until_the_module_or_a_test_changes(tmp_path):
    test_file, file = tmp_path / "test_it.py", tmp_path / "cache" / "mutants.jsonl"
    test_file.write_text("one")
    fates = KnownFates(file)
    key = fates.key("module.py", "changed", fates.digest([test_file]))
    assert fates.get(key) is None
    fates.keep(key, "killed")
    with file.open("a") as lines:
        lines.write('["half a li')
    again = KnownFates(file)
    assert again.get(again.key("module.py", "changed", again.digest([test_file]))) == "killed"
    assert again.get(again.key("module.py", "otherwise", again.digest([test_file]))) is None
    test_file.write_text("two")
    later = KnownFates(file)
    assert later.get(later.key("module.py", "changed", later.digest([test_file]))) is None
