from pathlib import Path

import pytest

from worker.commands.outputs import check_outputs
from worker.errors import UsageError
from worker.settings.fields import ReplaySettings
from worker.sources.recording import probe_recording


@pytest.fixture
def check(short_clip):
    def check(output=None, **options):
        settings = ReplaySettings(paths=["x.mp4"], output=output, **options)
        check_outputs(settings, [probe_recording(Path(short_clip), "clip")])

    return check


def test_a_name_in_a_directory_that_can_be_written_to_is_accepted(check, tmp_path):
    check(tmp_path / "tags.jsonl", annotate=tmp_path / "drawn.mp4")
    assert list(tmp_path.iterdir()) == []  # what was tried is removed again


def test_an_output_that_exists_is_kept_unless_it_may_be_overwritten(check, tmp_path):
    file = tmp_path / "tags.jsonl"
    file.write_text("precious")
    with pytest.raises(UsageError, match=r"exists already: .* give --overwrite"):
        check(file)
    check(file, overwrite=True)
    assert file.read_text() == "precious"


def test_a_directory_is_refused(check, tmp_path):
    (tmp_path / "tags.jsonl").mkdir()
    with pytest.raises(UsageError, match="is a directory"):
        check(tmp_path / "tags.jsonl", overwrite=True)


def test_a_directory_that_does_not_exist_is_named(check, tmp_path):
    with pytest.raises(UsageError, match="missing does not exist"):
        check(tmp_path / "missing" / "tags.jsonl")


def test_the_recording_itself_is_never_overwritten(check, short_clip, tmp_path):
    link = tmp_path / "same.mp4"
    link.symlink_to(short_clip)
    with pytest.raises(UsageError, match="is the recording itself"):
        check(annotate=link, overwrite=True)


def test_a_directory_that_cannot_be_written_to_is_refused(check):
    with pytest.raises(UsageError, match="cannot write there"):
        check(Path("/proc/tags.jsonl"))  # where root cannot write either
