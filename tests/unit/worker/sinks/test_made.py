"""What an unfinished replay has made is its own; everything else is the user's."""

import json

import pytest

from worker.errors import SinkError
from worker.sinks.files import complete_or_absent
from worker.sinks.made import Made


@pytest.fixture
def made(tmp_path):
    (tmp_path / "tags.parquet.partial-0123").touch()
    return Made(tmp_path / "tags.parquet")


@pytest.fixture
def video(tmp_path):
    return tmp_path / "drawn.mp4"


def writing(target, content):
    """A writer of ``target``, and the contents that it has written."""
    written = []

    def write(on_complete):
        with complete_or_absent(target, on_complete) as path:
            path.write_text(content)
            written.append(content)

    return write, written


def test_what_is_made_is_not_made_again(made, video):
    write, written = writing(video, "drawn")
    made.make(video, "claim", write)
    made.make(video, "claim", write)
    assert made.has(video)
    assert (video.read_text(), written) == ("drawn", ["drawn"])


def test_what_another_claim_made_is_made_again(made, video):
    write, written = writing(video, "drawn")
    made.make(video, "claim", write)
    made.make(video, "another", write)
    assert len(written) == 2
    made.outdate()
    assert made.has(video)  # so that it may be replaced
    made.make(video, "another", write)
    assert len(written) == 3


def test_a_file_in_its_place_is_not_its_own(made, video):
    made.make(video, "claim", writing(video, "drawn")[0])
    video.rename(video.with_name("moved.mp4"))
    assert not made.has(video)
    video.write_text("drawn")
    assert not made.has(video)


def test_a_file_that_was_changed_is_not_its_own(made, video):
    made.make(video, "claim", writing(video, "drawn")[0])
    with video.open("a") as file:
        file.write("more")
    assert not made.has(video)


def test_two_files_are_known(made, video, tmp_path):
    other = tmp_path / "tags.parquet"
    made.make(video, "claim", writing(video, "drawn")[0])
    made.make(other, "claim", writing(other, "rows")[0])
    assert made.has(video)
    assert made.has(other)


def test_without_a_journal_or_a_record_nothing_is_its_own(made, video, tmp_path):
    video.write_text("mine")
    assert not made.has(video)
    made.make(video, "claim", writing(video, "drawn")[0])
    (tmp_path / "tags.parquet.partial-0123").unlink()
    assert not made.has(video)
    made.forget()
    made.forget()
    assert [path.name for path in tmp_path.iterdir()] == ["drawn.mp4"]


@pytest.mark.parametrize("record", ["", "[]", "{", '{"x": 1}', "null"])
def test_a_record_that_cannot_be_read_knows_nothing(made, video, tmp_path, record):
    (tmp_path / ".tags.parquet.made.json").write_text(record)
    video.write_text("mine")
    assert not made.has(video)
    made.outdate()
    made.make(video, "claim", writing(video, "drawn")[0])
    assert made.has(video)


def test_a_record_that_a_killed_replay_left_after_its_end_is_deleted(made, video, tmp_path):
    made.make(video, "claim", writing(video, "drawn")[0])
    made.forget_finished()
    assert made.has(video)  # the journal is there: the replay is not finished
    for journal in tmp_path.glob("*.partial-*"):
        journal.unlink()
    made.forget_finished()
    assert [path for path in tmp_path.iterdir() if path != video] == []


def test_a_file_is_noted_before_it_has_its_name(made, video):
    """So that it is known whenever the replay ends."""

    def write(on_complete):
        with complete_or_absent(video, on_complete) as path:
            path.write_text("drawn")
        raise SinkError("ended here")

    with pytest.raises(SinkError):
        made.make(video, "claim", write)
    assert made.has(video, "claim")


def test_an_empty_entry_of_a_record_is_passed_over(made, video, tmp_path):
    write, written = writing(video, "drawn")
    made.make(video, "claim", write)
    record = tmp_path / ".tags.parquet.made.json"
    record.write_text(json.dumps({"x": [], **json.loads(record.read_text())}))
    assert made.has(video, "claim")
    made.outdate()
    made.make(video, "claim", write)
    assert len(written) == 2
