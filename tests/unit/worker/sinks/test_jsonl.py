import fcntl

import pytest

from tests.events import camera_event, detections_event
from worker.errors import SinkError, UsageError
from worker.sinks.jsonl import JsonlSink

CLAIM = "0123456789abcdef"


def frames(first, last):
    return [
        detections_event("clip", epoch=0, seq=seq, mode="replay") for seq in range(first, last + 1)
    ]


def ended(seq):
    return camera_event("clip", epoch=0, seq=seq, mode="replay", state="ended")


@pytest.fixture
def output(tmp_path):
    return tmp_path / "tags.jsonl"


def test_a_journal_is_found_by_the_name_that_earlier_versions_gave_it(output):
    sink = JsonlSink(output, CLAIM, batch=1)
    assert sink.path.name == "tags.jsonl.partial-0123456789ab"
    sink.close()


def test_a_finished_recording_is_complete_however_many_frames_its_last_batch_has(output):
    sink = JsonlSink(output, CLAIM, batch=4)
    sink.publish([*frames(0, 4), ended(5)])
    sink.close()
    again = JsonlSink(output, CLAIM, batch=4)
    assert (again.checkpoint("clip").events, again.checkpoint("clip").finished) == (6, True)
    again.close()


def test_a_journal_is_cut_back_to_before_the_first_line_that_is_torn(output):
    sink = JsonlSink(output, CLAIM, batch=2)
    sink.publish(frames(0, 5))
    sink.close()
    lines = sink.path.read_bytes().splitlines(keepends=True)
    lines[2] = b"{torn\n"
    sink.path.write_bytes(b"".join(lines))
    again = JsonlSink(output, CLAIM, batch=2)
    assert again.checkpoint("clip").events == 2
    assert [event.data.seq for event in again.read()] == [0, 1]
    again.close()


def test_an_unfinished_replay_of_something_else_is_refused_and_kept(output):
    sink = JsonlSink(output, CLAIM, batch=1)
    sink.publish(frames(0, 0))
    sink.close()
    with pytest.raises(UsageError, match=r"partial-0123456789ab: an unfinished replay .*--restart"):
        JsonlSink(output, "other", batch=1)
    assert sink.path.exists()


def test_a_restart_deletes_every_other_journal(output):
    for claim in ("a", "b", "c", CLAIM[:12], "d", "e", "f"):
        output.with_name(f"{output.name}.partial-{claim}").write_text("{torn")
    sink = JsonlSink(output, CLAIM, batch=1, restart=True)
    assert list(output.parent.iterdir()) == [sink.path]
    assert sink.path.stat().st_size == 0
    sink.close()


def test_a_finished_journal_that_is_not_kept_is_deleted(output):
    sink = JsonlSink(output, CLAIM, batch=1)
    sink.publish(frames(0, 0))
    sink.finish(keep=False)
    assert list(output.parent.iterdir()) == []


def test_a_finished_output_is_not_held_any_more(output):
    sink = JsonlSink(output, CLAIM, batch=1)
    sink.finish(keep=True)
    with output.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_closing_a_finished_journal_leaves_the_next_one_alone(output):
    first = JsonlSink(output, CLAIM, batch=1)
    first.finish(keep=True)
    second = JsonlSink(output, CLAIM, batch=1)
    first.close()
    assert second.path.exists()
    second.close()


def test_a_journal_that_was_deleted_can_be_closed(output):
    sink = JsonlSink(output, CLAIM, batch=1)
    sink.path.unlink()
    sink.close()
    assert list(output.parent.iterdir()) == []


def test_a_journal_that_was_finished_and_begun_again_meanwhile_is_another(output, monkeypatch):
    first = JsonlSink(output, CLAIM, batch=1)

    def flock(file, operation):  # between opening and locking, the name went to another file
        first.finish(keep=True)
        first.path.touch()

    monkeypatch.setattr("worker.sinks.jsonl.fcntl.flock", flock)
    with pytest.raises(UsageError, match="another replay"):
        JsonlSink(output, CLAIM, batch=1)


def test_a_journal_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(SinkError, match=r"^cannot write .*tags\.jsonl: No such file or directory$"):
        JsonlSink(tmp_path / "absent" / "tags.jsonl", CLAIM, batch=1)


def test_an_error_without_words_of_the_system_is_one_line_all_the_same(output, monkeypatch):
    def flock(file, operation):
        raise OSError("no locks on this disk")

    monkeypatch.setattr("worker.sinks.jsonl.fcntl.flock", flock)
    with pytest.raises(SinkError, match=r"^cannot write .*tags\.jsonl: no locks on this disk$"):
        JsonlSink(output, CLAIM, batch=1)
