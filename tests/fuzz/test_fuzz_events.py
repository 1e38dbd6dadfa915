"""The event parser on any input: an event, which is written as it was read, or a ValueError."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from tests.events import camera_event, detections_event
from worker.events import (
    CameraData,
    CameraEvent,
    Detection,
    DetectionsData,
    DetectionsEvent,
    ModelInfo,
    parse_event,
)

ROOT = Path(__file__).parents[2]
REAL = [detections_event().to_json(), camera_event(state="down", reason="stall").to_json()]

text = st.text(st.characters(exclude_categories=["Cs"]))
whole = st.integers(-(2**80), 2**80)
number = st.floats(allow_nan=False, allow_infinity=False)
zones = st.one_of(
    st.just(UTC),
    st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
times = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=zones)
json_values = st.recursive(
    st.none() | st.booleans() | whole | st.floats() | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
common = {"id": text, "source": text, "time": st.none() | times}
numbered = {
    "camera_id": text, "mode": st.sampled_from(["live", "replay"]), "epoch": whole, "seq": whole,
}  # fmt: skip
detections = st.builds(
    Detection, label=text, class_id=whole, score=number, box=st.tuples(*[number] * 4)
)
detections_data = st.builds(
    DetectionsData, **numbered, frame_index=whole, pts=st.none() | whole, time_base=text,
    pts_seconds=st.none() | number, clock=st.sampled_from(["rtcp", "arrival", "file"]),
    width=whole, height=whole, skipped=whole, dropped=whole,
    model=st.builds(ModelInfo, name=text, digest=text),
    detections=st.lists(detections, max_size=3).map(tuple),
)  # fmt: skip
camera_data = st.builds(
    CameraData, **numbered, state=st.sampled_from(["up", "down", "degraded", "ended"]),
    reason=text, detail=text, frames=whole, dropped=whole,
)  # fmt: skip
events = st.builds(DetectionsEvent, **common, data=detections_data) | st.builds(
    CameraEvent, **common, data=camera_data
)


def parses_or_refuses(content):
    """Any error but a ValueError is a failure; an event must survive being written and read."""
    try:
        event = parse_event(content)
    except ValueError:
        return
    written = event.to_json()
    assert parse_event(written).to_json() == written


@given(events)
def test_an_event_comes_back_byte_for_byte(event):
    written = event.to_json()
    again = parse_event(written)
    assert type(again) is type(event)
    assert again.to_json() == written


@given(st.binary() | text | json_values.map(json.dumps))
def test_anything_is_an_event_or_a_value_error(content):
    parses_or_refuses(content)


@given(st.data())
def test_a_real_event_with_any_value_in_it_is_an_event_or_a_value_error(data):
    event = json.loads(data.draw(st.sampled_from(REAL)))
    for _ in range(data.draw(st.integers(1, 3))):
        place = event
        if data.draw(st.booleans()) and isinstance(event.get("data"), dict):
            place = event["data"]
        name = st.sampled_from([*place]) | text if place else text
        place[data.draw(name)] = data.draw(json_values)
    parses_or_refuses(json.dumps(event))


@given(st.data())
def test_a_real_event_with_damaged_bytes_is_an_event_or_a_value_error(data):
    content = bytearray(data.draw(st.sampled_from(REAL)).encode())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[at] = data.draw(st.integers(0, 255))
        else:
            del content[at : at + data.draw(st.integers(1, 20))]
        content = content or bytearray(b"{")
    parses_or_refuses(bytes(content))


@pytest.mark.parametrize("value", ["1e999", "-1e999", "NaN", "Infinity"])
@pytest.mark.parametrize("number", ["0.9", "0.1", "0.0"])
def test_numbers_that_json_cannot_represent_are_refused(number, value):
    """JSON cannot represent them: the event would be written with null in their place."""
    assert REAL[0].count(number) == 1
    with pytest.raises(ValueError, match="finite number"):
        parse_event(REAL[0].replace(number, value))


@pytest.mark.parametrize("depth", [100, 100_000])
def test_deep_nesting_is_refused_and_does_not_overflow(depth):
    with pytest.raises(ValueError, match=r"JSON|valid"):
        parse_event("[" * depth + "]" * depth)
    parses_or_refuses(REAL[0].replace('"live"', "[" * depth + "]" * depth))


@pytest.mark.long
@pytest.mark.skipif(
    find_spec("atheris") is None, reason="coverage-guided fuzzing (atheris is not installed)"
)
def test_half_a_minute_of_coverage_guided_fuzzing_finds_nothing(tmp_path):
    command = [sys.executable, "-m", "tests.fuzz.fuzz_events", str(tmp_path), "-max_total_time=30"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "DONE" in result.stderr
