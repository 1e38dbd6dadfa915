"""The drawings of the page, in numbers."""

import pytest

from tests.unit.worker.reports.events import seen, state
from tests.unit.worker.reports.test_page import material_of
from worker.reports.charts import HEIGHT, area_path, state_rects, unseen_runs


def test_an_area_has_steps_and_is_interrupted_where_nothing_is_known():
    assert area_path([1, 2, None, 0, 0.3], 2) == "M0 100V50h1V0h1V100zM3 100V100h1V85h1V100z"
    assert area_path([], 1) == area_path([None, None], 1) == ""


def test_runs_of_bins_without_a_frame():
    assert unseen_runs([0, 0, 1, 0.2, 0]) == [(0, 2), (4, 1)]
    assert unseen_runs([]) == unseen_runs([1]) == []


def test_each_bin_of_a_bar_is_full_and_shows_its_states_by_their_shares():
    material = material_of(
        state(0, 0, "up", "connected"),
        *(seen(n, n, 10 * n) for n in range(1, 25)),
        state(25, 25, "down", "timeout", frames=250),
        state(26, 35, "down", "timeout", frames=250),
        state(0, 40, "up", "connected", epoch=2, frames=0),
    )
    timeline = material.camera.timeline
    rects = state_rects(material)
    for place in range(timeline.bins):
        own = [r for r in rects if r["x"] <= place < r["x"] + r["width"]]
        assert sum(float(r["height"]) for r in own) == pytest.approx(HEIGHT, abs=0.5)
    down = sum(r["width"] * float(r["height"]) for r in rects if r["style"] == "down")
    assert down * timeline.width / HEIGHT == pytest.approx(15, abs=timeline.width)
