import os
import signal
import subprocess
import sys
import threading

import pytest

from tests.conftest import wait_until
from worker.commands import reloading as module
from worker.commands.reloading import fingerprints, reloading
from worker.errors import UsageError


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.02)


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "cameras.toml"
    file.write_text("first")
    return file


class Reload:
    """Notes what the file holds each time; ``error`` is raised afterwards."""

    def __init__(self, file):
        self.file = file
        self.read = []
        self.error = None

    def __call__(self):
        self.read.append(self.file.read_text())
        if self.error is not None:
            raise self.error


@pytest.fixture
def reload(file):
    return Reload(file)


@pytest.fixture
def watched(file, reload):
    with reloading([file], fingerprints([file]), reload):
        yield file


def test_a_change_is_taken_over_once(watched, reload):
    watched.write_text("second")
    wait_until(lambda: reload.read)
    looks = threading.Event()
    looks.wait(0.2)  # ten looks without another change
    assert reload.read == ["second"]


def test_a_file_that_is_replaced_or_appears_later_is_taken_over(watched, reload):
    other = watched.with_name("new.toml")
    other.write_text("third")
    other.replace(watched)
    wait_until(lambda: reload.read == ["third"])
    watched.unlink()
    watched.write_text("fourth")
    wait_until(lambda: reload.read[-1] == "fourth")


def test_a_link_that_points_elsewhere_is_a_change(tmp_path, file):
    (tmp_path / "other.toml").write_text("other")
    link = tmp_path / "link.toml"
    link.symlink_to(file)
    reload = Reload(link)
    with reloading([link], fingerprints([link]), reload):
        new = tmp_path / "link.new"
        new.symlink_to(tmp_path / "other.toml")
        new.replace(link)
        wait_until(lambda: reload.read == ["other"])


def test_a_file_that_is_being_written_is_read_when_it_is_whole(watched, reload, monkeypatch):
    whole = "".join(f"[cameras.c{number}]\n" for number in range(200))
    with watched.open("w") as writing:
        for line in whole.splitlines(keepends=True):
            writing.write(line)
            writing.flush()
    wait_until(lambda: reload.read)
    assert reload.read[-1] == whole


def test_what_changed_between_the_first_reading_and_the_first_look_is_taken_over(file, reload):
    as_it_was_read = fingerprints([file])
    file.write_text("changed while the detector was loading")
    with reloading([file], as_it_was_read, reload):
        wait_until(lambda: reload.read)


def test_sighup_reads_a_file_that_did_not_change(watched, reload):
    os.kill(os.getpid(), signal.SIGHUP)
    wait_until(lambda: reload.read == ["first"])


def test_a_mistake_is_one_line_and_the_next_change_is_taken_over(watched, reload, caplog):
    reload.error = UsageError("cameras.toml:3: camera gate: no such file")
    watched.write_text("wrong")
    wait_until(lambda: reload.read == ["wrong"])
    wait_until(lambda: "no such file" in caplog.text)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    reload.error = None
    watched.write_text("mended")
    wait_until(lambda: reload.read == ["wrong", "mended"])


def test_a_bug_does_not_end_the_watching_of_files(watched, reload, caplog):
    reload.error = RuntimeError("a bug")
    watched.write_text("second")
    wait_until(lambda: "internal error" in caplog.text)
    reload.error = None
    watched.write_text("third of all")
    wait_until(lambda: reload.read[-1] == "third of all")


def test_without_files_sighup_keeps_its_meaning(reload):
    before = signal.getsignal(signal.SIGHUP)
    with reloading([], [], reload):
        assert signal.getsignal(signal.SIGHUP) is before


def test_sighup_means_what_it_did_once_the_run_is_over(file, reload):
    before = signal.getsignal(signal.SIGHUP)
    with reloading([file], fingerprints([file]), reload):
        assert signal.getsignal(signal.SIGHUP) is not before
    assert signal.getsignal(signal.SIGHUP) is before


STORM = """
import os, signal, sys, threading
from pathlib import Path
from worker.commands.reloading import fingerprints, reloading

def again(frame, event, argument):  # a second signal while the first is being handled
    if event == "call" and frame.f_code.co_name == "notify_all" and not nested:
        nested.append(True)
        os.kill(os.getpid(), signal.SIGHUP)

file, nested, read = Path(sys.argv[1]), [], threading.Event()
with reloading([file], fingerprints([file]), read.set):
    sys.setprofile(again)
    os.kill(os.getpid(), signal.SIGHUP)
    sys.setprofile(None)
    print(read.wait(10))
"""


def test_a_sighup_while_another_is_handled_does_not_stop_the_worker(file):
    result = subprocess.run(
        [sys.executable, "-c", STORM, str(file)], capture_output=True, text=True, timeout=20
    )
    assert (result.stdout.strip(), result.returncode) == ("True", 0), result.stderr
