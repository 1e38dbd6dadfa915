"""How the live table looks, for any size of the terminal and whatever ids and labels hold."""

import io
import logging
import sys
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from tests.events import PERSON, camera_event, detections_event
from worker.commands.live_table import LiveTable, _shown
from worker.events import Detection
from worker.text import printable

CAR = Detection(label="Car", class_id=5, score=0.5, box=(0.1, 0.2, 0.3, 0.4))


def drawn(table, width=120, height=40):
    console = Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None
    )
    console.print(table.draw(console))
    return console.file.getvalue().splitlines()


def filled(*events, **options):
    table = LiveTable(**options)
    for event in events:
        table.note(event)
        table.count(event)
    return table


def test_a_row_has_state_and_counts_per_label_most_first():
    lines = drawn(filled(
        camera_event(seq=0),
        detections_event(seq=1, detections=(CAR, PERSON)),
        detections_event(seq=2, detections=(PERSON,)),
    ))  # fmt: skip
    assert lines[0].split() == ["camera", "state", "fps", "latency", "dropped", "detections"]
    (row,) = [line for line in lines if "gate" in line]
    assert "up" in row
    assert "Person 2  Car 1" in row
    assert lines[-1].startswith("1 of 1 up, 3 events and their detections, frame by frame, since ")


def test_a_latency_of_hours_is_no_number_of_milliseconds():
    event = detections_event(seq=1)
    event = event.model_copy(update={"time": datetime.now(UTC) - timedelta(hours=3)})
    (row,) = [line for line in drawn(filled(event)) if "gate" in line]
    assert " 3 h " in row


def test_only_the_detections_asked_for_are_counted():
    events = [detections_event(seq=n, detections=(CAR, PERSON)) for n in range(3)]
    assert any("Person 3 " in line for line in drawn(filled(*events, labels=["Person"])))
    assert any("Person 3 " in line for line in drawn(filled(*events, score_threshold=0.5)))
    assert not any("Car" in line for line in drawn(filled(*events, score_threshold=0.5)))


def test_cameras_in_trouble_stay_in_a_low_window():
    names = [f"gate{n:02}" for n in range(50)]
    table = filled(*(camera_event(name) for name in names))
    table.note(camera_event("gate31", seq=1, state="down", reason="timeout"))
    table.begin("yard", [])
    lines = drawn(table, height=10)
    assert len(lines) == 9
    assert [line.split()[0] for line in lines[2:7]] == ["gate31", "yard", *names[:3]]
    assert lines[7] == "46 more: enlarge the window, or name the cameras"


@pytest.mark.parametrize("width", [20, 40, 59, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_state_and_counts_always_show(width):
    table = filled(
        camera_event("a-camera-with-a-long-name", state="degraded", reason="late"),
        detections_event("gate", detections=(CAR, PERSON) * 4),
    )
    lines = drawn(table, width)
    assert max(map(len, lines)) <= width
    assert any("degr" in line for line in lines)
    if width >= 40:
        assert any("Car 4" in line for line in lines)


def test_neither_markup_nor_control_characters_have_an_effect():
    hostile = "[red]\x1b[2J\r\n\x9b1m\u202eX[/red]"
    person = PERSON.model_copy(update={"label": hostile})
    table = filled(
        detections_event(hostile, detections=(person,)),
        camera_event("yard", state="down", reason=hostile),
    )
    text = "\n".join(drawn(table, 200))
    shown = "[red]�[2J���1m�X[/red]"
    assert printable(hostile) == shown
    assert text.count(shown) == 3
    assert not set(text) & set("\x1b\r\x9b\u202e")


def test_an_empty_table_says_what_to_do():
    assert "nothing to show yet: start `ssd-worker run SOURCE`" in drawn(LiveTable())
    lines = drawn(LiveTable(replay=True))
    assert "nothing to show yet: start `ssd-worker replay PATH`" in lines
    assert lines[0].split() == ["replay", "state", "fps", "position", "dropped", "detections"]


def test_a_replay_shows_its_position():
    event = detections_event("clip", epoch=0, seq=1234, mode="replay")
    (row,) = [line for line in drawn(filled(event, replay=True)) if "clip" in line]
    assert "running" in row
    assert " 2:03 " in row


def test_the_events_before_the_table_began_are_shown_and_not_counted():
    table = LiveTable()
    table.begin(
        "gate", [detections_event(seq=4), camera_event(seq=5, state="down", reason="stall")]
    )
    (row,) = [line for line in drawn(table) if "gate" in line]
    assert "Person" not in row


class TerminalText(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stderr", [TerminalText(), io.StringIO()], ids=["terminal", "file"])
def test_log_lines_stand_above_the_table_if_they_go_to_the_terminal(monkeypatch, stderr):
    monkeypatch.setattr(sys, "stderr", stderr)
    log = logging.getLogger("worker")
    handler = logging.StreamHandler(stderr)
    log.addHandler(handler)
    screen = Console(file=TerminalText(), width=80, height=20, force_terminal=True)
    try:
        with _shown(filled(camera_event()), screen):
            log.warning("[bold]retrying")
        log.warning("ended")
    finally:
        log.removeHandler(handler)
    above, elsewhere = screen.file.getvalue(), stderr.getvalue()
    is_terminal = stderr.isatty()
    assert ("[bold]retrying" in above, "[bold]retrying" in elsewhere) == (
        is_terminal,
        not is_terminal,
    )
    assert "ended" in elsewhere
    if is_terminal:
        assert above.index("retrying") < above.rindex("gate")
