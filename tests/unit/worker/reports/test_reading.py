"""Events from files of JSON Lines, and what is wrong in them."""

import json

import pytest

from tests.events import PERSON
from tests.unit.worker.reports.events import end_of_recording, recorded
from worker.errors import SourceError, UsageError
from worker.reports import reading
from worker.reports.reading import read_file

EVENTS = [recorded(0, PERSON), recorded(1), end_of_recording(2)]


def written(tmp_path, *lines):
    path = tmp_path / "tags.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def test_every_event_of_a_file_is_read_in_order(tmp_path):
    found = read_file(written(tmp_path, *(event.to_json().encode() for event in EVENTS), b""))
    assert list(found) == EVENTS
    assert (found.name, found.lines, found.malformed) == ("tags.jsonl", 3, 0)


def test_what_is_no_event_is_counted_and_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LONGEST_LINE_BYTES", 2000)
    event = EVENTS[0].to_json().encode()
    later = json.dumps({**json.loads(event), "type": "ssd.track.v1"}).encode()
    bad = [b"{", b"[]", b"\xff\xfe", event[:-9], b"x" * 5000, b"[" * 1900]
    found = read_file(written(tmp_path, event, *bad, later, event))
    assert list(found) == [EVENTS[0], EVENTS[0]]
    assert (found.lines, found.malformed, found.first_malformed) == (9, 6, 2)
    assert found.of_other_types == 1


def test_a_line_as_long_as_allowed_is_one_line(tmp_path, monkeypatch):
    event = EVENTS[0].to_json().encode()
    for limit, malformed in ((len(event) + 1, 0), (len(event), 1)):
        monkeypatch.setattr(reading, "LONGEST_LINE_BYTES", limit)
        found = read_file(written(tmp_path, event, event))
        assert (len(list(found)), found.malformed) == (2 - 2 * malformed, 2 * malformed)


@pytest.mark.parametrize("name", ["tags.parquet", "tags.json"])
def test_other_outputs_of_a_replay_are_refused_with_the_way_out(tmp_path, name):
    with pytest.raises(UsageError, match="a report is made of JSON Lines: replay with --output"):
        read_file(tmp_path / name)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="is a directory"):
        read_file(tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        read_file(tmp_path / "none.jsonl")
    gone = written(tmp_path, b"{}")
    found = read_file(gone)
    gone.unlink()
    with pytest.raises(SourceError, match="cannot read it: No such file"):
        list(found)
