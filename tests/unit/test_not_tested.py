"""A run of tests says what it left out, and fails where that is required."""

import os
import subprocess
import sys
import textwrap

import pytest

from tests import not_tested
from tests.conftest import ROOT

HOOKS = """
from tests import not_tested

def pytest_terminal_summary(terminalreporter):
    not_tested.summarise(terminalreporter)

def pytest_sessionfinish(session):
    session.exitstatus = not_tested.exit_status(session)
"""
TESTS = """
import pytest

def test_that_runs(): pass
@pytest.mark.skip(reason="a GPU (no CUDA device)")
@pytest.mark.parametrize("n", range(3))
def test_of_a_gpu(n): pass
"""
LACKING = """
@pytest.mark.skip(reason="Redis with TLS (no redis-server)")
def test_of_tls(): pass
"""


def run(directory, tests):
    """Exit status, and the lines of the section, of a run that requires all but a GPU."""
    (directory / "conftest.py").write_text(HOOKS)
    (directory / "test_some.py").write_text(textwrap.dedent(tests))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "xdist",
         "--numprocesses", "1", "--rootdir", directory, directory],
        env=os.environ | {"PYTHONPATH": str(ROOT), "REQUIRE": not_tested.ALL_BUT_CUDA,
                          "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True, text=True, cwd=directory,
    )  # fmt: skip
    _, _, section = done.stdout.partition("not tested here")
    return done.returncode, [line.strip() for line in section.splitlines()[1:] if line]


def test_a_run_counts_what_it_left_out_by_reason_and_fails_where_that_is_required(tmp_path):
    status, lines = run(tmp_path, TESTS + LACKING)
    assert status == 1
    assert lines[0] == "3 tests  a GPU (no CUDA device)"
    assert lines[1].startswith("1 test   Redis with TLS (no redis-server)  (fails the run")


def test_where_all_but_a_gpu_is_required_a_missing_gpu_fails_nothing(tmp_path):
    status, lines = run(tmp_path, TESTS)
    assert status == 0
    assert lines[0] == "3 tests  a GPU (no CUDA device)"


def test_nothing_is_required_unless_asked_for():
    assert not not_tested.required({})
    assert not_tested.required({"REQUIRE": "all-but-cuda"})
    with pytest.raises(ValueError, match="REQUIRE=everything: expected all-but-cuda"):
        not_tested.required({"REQUIRE": "everything"})
