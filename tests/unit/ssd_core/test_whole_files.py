"""Files that appear whole, or not at all."""

import os

import pytest

from ssd_core.whole_files import written_whole


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "drawn.mp4"
    path.write_text("old")
    return path


def test_the_content_is_on_disk_and_passed_on_before_it_has_the_name(target, monkeypatch):
    happened = []
    fsync = os.fsync

    def synced(descriptor):
        fsync(descriptor)
        happened.append((os.fstat(descriptor).st_size, target.read_text()))

    def completed(path):
        happened.append((path.read_text(), target.read_text()))

    monkeypatch.setattr(os, "fsync", synced)
    with written_whole(target, completed) as unfinished:
        unfinished.write_text("the new")
    assert happened == [(len("the new"), "old"), ("the new", "old")]
    assert target.read_text() == "the new"
    assert list(target.parent.iterdir()) == [target]


def test_what_is_refused_when_it_is_complete_changes_nothing(target):
    def refuse(_complete):
        raise OSError("ended here")

    with pytest.raises(OSError, match="ended here"), written_whole(target, refuse) as path:
        path.write_text("new")
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def test_a_writer_that_wrote_nothing_is_an_error_and_changes_nothing(target):
    with pytest.raises(FileNotFoundError), written_whole(target):
        pass
    assert target.read_text() == "old"


def test_a_writer_may_choose_the_format_by_the_suffix(target):
    with written_whole(target) as path:
        assert path.suffix == ".mp4"
        path.write_text("new")


def test_what_a_killed_process_left_is_overwritten(target):
    with written_whole(target) as left:
        left.write_text("half of something longer")
        os.link(left, target.with_name("kept"))
    target.with_name("kept").rename(left)
    with written_whole(target) as path:
        path.write_text("whole")
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]
