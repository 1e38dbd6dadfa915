"""The picture of a coverage, by its pixels."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image

from worker.commands.coverage_plot import COLOURS, kind_of, write_plot
from worker.coverage import STATES, Interval

pytest.importorskip("matplotlib")
T0 = datetime(2026, 11, 20, tzinfo=UTC)


def interval(start_hours, end_hours, state, reason=""):
    start, end = (T0 + timedelta(hours=h) for h in (start_hours, end_hours))
    return Interval(start, end, state, reason)


def columns(path, kind, row, rows):
    """How many columns of a camera's bar have a state's colour."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    colour = [int(COLOURS[kind][i : i + 2], 16) for i in (1, 3, 5)]
    has = (np.abs(pixels.astype(int) - colour) < 12).all(axis=2)
    any_colour = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLOURS.values()]
    is_bar = np.zeros(has.shape, bool)
    for each in any_colour:
        is_bar |= (pixels == each).all(axis=2)
    full = np.flatnonzero(is_bar.mean(axis=1) > 0.5)  # lines that bars run through
    bands = np.split(full, np.flatnonzero(np.diff(full) > 1) + 1)
    assert len(bands) == rows
    return int(has[bands[row][len(bands[row]) // 2]].sum())


def test_each_camera_has_a_bar_in_the_colours_of_its_states(tmp_path):
    found = {
        "gate": [interval(0, 12, "watched"), interval(12, 24, "down", "stall")],
        "yard": [interval(0, 6, "unknown", "trimmed"), interval(6, 24, "reduced", "skipped")],
    }
    path = tmp_path / "coverage.png"
    write_plot(found, T0, T0 + timedelta(hours=24), path)
    width = {kind: columns(path, kind, 0, 2) for kind in ("watched", "camera down")}
    assert width["watched"] == pytest.approx(width["camera down"], abs=4)
    unknown, by_choice = (
        columns(path, kind, 1, 2) for kind in ("unknown", "at a lower rate, by choice")
    )
    assert by_choice == pytest.approx(3 * unknown, abs=16)  # the edges are a mixture
    assert unknown + by_choice == pytest.approx(sum(width.values()), abs=4)
    assert [each.name for each in tmp_path.iterdir()] == ["coverage.png"]


def test_a_short_outage_can_be_seen_in_a_long_time(tmp_path):
    minute = 1 / 60
    found = {
        "gate": [
            interval(0, 50, "watched"),
            interval(50, 50 + minute, "worker_down", "silent"),
            interval(50 + minute, 168, "watched"),
        ]
    }
    path = tmp_path / "coverage.png"
    write_plot(found, T0, T0 + timedelta(hours=168), path)
    assert columns(path, "worker down", 0, 1) >= 1


def test_an_id_of_another_tool_is_drawn_as_it_is(tmp_path):
    found = {r"$\frac$ {a}/b \u00fc": [interval(0, 24, "watched")]}
    write_plot(found, T0, T0 + timedelta(hours=24), tmp_path / "coverage.png")
    assert columns(tmp_path / "coverage.png", "watched", 0, 1) > 100


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "coverage.png"
    path.write_text("old")
    (tmp_path / ".coverage.unfinished.png").mkdir()
    with pytest.raises(OSError, match="unfinished"):
        write_plot({"gate": [interval(0, 24, "watched")]}, T0, T0 + timedelta(hours=24), path)
    assert path.read_text() == "old"


def test_every_state_has_a_colour():
    assert {kind_of(interval(0, 1, state)) for state in STATES} < COLOURS.keys()
    assert kind_of(interval(0, 1, "reduced", "skipped")) != kind_of(
        interval(0, 1, "reduced", "dropped")
    )
