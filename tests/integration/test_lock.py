"""The lints of requirements.lock detect what is wrong with it."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.lint_audit import UNREACHABLE, pins, verdict
from tests.lint_deploy import disagreements, lock_problems

LOCK = (ROOT / "requirements.lock").read_text()


def test_what_is_deployed_has_a_version_and_hashes_and_no_address():
    assert list(lock_problems(LOCK, ["torch>=2.11,<2.16,!=2.13.0", "setproctitle"])) == []
    assert len(pins(LOCK)) == LOCK.count("==") - LOCK.count("== '") > 50


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda lock: f"--index-url https://host/simple\n{lock}", "names an address"),
        (lambda lock: lock.replace("redis==", "redis @ https://host/redis-"), "names an address"),
        (lambda lock: lock.replace("redis==", "valkyrie=="), "redis is not there on Python 3.11"),
        (lambda lock: lock.replace("redis==8", "redis==9"), "redis 9.* wants <9,>=6.2"),
        (lambda lock: lock.replace("< '3.14'", "< '3.13'"), "redis is not there on Python 3.13"),
        (lambda lock: lock + "redis==8.1.0\n", "redis has no hash"),
        (lambda lock: lock.replace("sha256:", "sha1:"), "has no hash"),
    ],
)
def test_an_untrusted_or_mismatching_lock_file_is_refused(change, problem):
    changed = change(LOCK)
    assert changed != LOCK
    with pytest.raises(AssertionError, match=problem):
        assert list(lock_problems(changed, ["redis>=6.2,<9"])) == []


def test_what_is_tested_is_what_is_deployed():
    tested = (ROOT / "requirements-dev.lock").read_text()
    assert list(disagreements(LOCK, tested)) == []
    assert list(disagreements(LOCK, tested.replace("redis==8", "redis==7"))) == [
        f"requirements-dev.lock: {next(pin for pin in pins(LOCK) if pin.startswith('redis=='))}"
        " of requirements.lock is not there: make lock"
    ]


def answer(*packages):
    return json.dumps({"dependencies": packages})


def test_a_known_vulnerability_fails_the_lint_and_names_the_way_out():
    found = {"id": "PYSEC-1", "fix_versions": ["3.7"], "aliases": [], "description": "..."}
    bad = {"name": "idna", "version": "3.6", "vulns": [found]}
    good = {"name": "rich", "version": "15.0.0", "vulns": []}
    lines, failed = verdict(answer(bad, good))
    assert failed
    assert lines[0] == "requirements.lock: idna 3.6: PYSEC-1: fixed in 3.7: make lock"
    assert verdict(answer(good, {"name": "x", "skip_reason": "..."})) == (
        ["pip-audit: 1 packages looked up, 0 vulnerabilities; nothing is known of 1 more"],
        False,
    )


@pytest.mark.parametrize("text", ["", "Traceback", answer({"name": "x", "skip_reason": "..."})])
def test_an_unreachable_advisory_database_fails_nothing(text):
    assert verdict(text) == ([UNREACHABLE], False)


def test_an_offline_audit_is_reported_in_one_line():
    nowhere = {f"{scheme}_proxy": "http://127.0.0.1:1" for scheme in ("http", "https", "all")}
    found = subprocess.run(
        [sys.executable, "-m", "tests.lint_audit"], cwd=ROOT, env=os.environ | nowhere,
        capture_output=True, text=True,
    )  # fmt: skip
    assert (found.returncode, found.stdout, found.stderr) == (0, f"{UNREACHABLE}\n", "")
