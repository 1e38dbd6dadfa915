import fcntl
from pathlib import Path

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


@pytest.mark.parametrize("begun_again", [True, False])
def test_a_journal_that_was_finished_meanwhile_is_another(output, monkeypatch, begun_again):
    first = JsonlSink(output, CLAIM, batch=1)

    def flock(file, operation):  # between opening and locking, the name went to another file
        first.finish(keep=True)
        if begun_again:
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


def test_a_disk_that_takes_nothing_is_one_line(output):
    sink = JsonlSink(output, CLAIM, batch=1)
    with Path("/dev/full").open("ab") as sink._file:
        with pytest.raises(SinkError, match="No space left on device"):
            sink.publish(frames(0, 0))
        sink.close()


@pytest.mark.parametrize("keep", [True, False])
def test_a_journal_that_is_gone_at_the_end_is_one_line(output, keep):
    sink = JsonlSink(output, CLAIM, batch=1)
    sink.path.unlink()
    with pytest.raises(SinkError, match=r"^cannot write .*tags\.jsonl: No such file or directory$"):
        sink.finish(keep=keep)
    sink.close()


def test_a_journal_is_begun_anew_with_restart_and_goes_on_without(output):
    sink = JsonlSink(output, CLAIM, batch=2)
    sink.publish(frames(0, 3))
    assert sink.checkpoint("clip").events == 4
    sink.publish([*frames(0, 4), ended(5)])  # sent again, and more
    assert [event.data.seq for event in sink.read()] == list(range(6))
    assert (sink.checkpoint("clip").events, sink.checkpoint("clip").finished) == (6, True)
    sink.close()
    again = JsonlSink(output, CLAIM, batch=2, restart=True)
    assert again.checkpoint("clip").events == 0
    assert again.path.read_bytes() == b""
    again.close()
    assert not again.path.exists()  # nothing in it


def test_a_journal_with_one_event_stays_for_the_next_run(output):
    sink = JsonlSink(output, CLAIM, batch=2)
    sink.publish(frames(0, 0))
    sink.close()
    assert sink.path.exists()


@pytest.mark.parametrize(
    ("written", "kept"), [(frames(0, 4), 4), ([*frames(0, 2), ended(3)], 4), (frames(0, 3), 2)]
)
def test_a_last_line_without_its_end_and_a_batch_that_is_not_whole_are_cut(output, written, kept):
    sink = JsonlSink(output, CLAIM, batch=2)
    sink.publish(written)
    sink.close()
    if kept == 2:
        sink.path.write_bytes(sink.path.read_bytes()[:-1])
    again = JsonlSink(output, CLAIM, batch=2)
    assert again.checkpoint("clip").events == len(list(again.read())) == kept
    again.close()
