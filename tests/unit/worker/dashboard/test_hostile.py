"""Any event that fits the schema is shown, counted and put into JSON, whatever its values."""

import json
from typing import get_args

from hypothesis import given, settings, strategies as st

from tests.events import PERSON, camera_event, detections_event
from worker.dashboard.cameras import CameraRecord, is_plausible
from worker.dashboard.messages import Message
from worker.events import CameraState, parse_event

TEXT = st.text(max_size=300)
COUNT = st.integers(-(2**70), 2**70) | st.integers(0, 2**53) | st.integers(0, 100)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
DETECTION = st.builds(
    lambda label, score, box: PERSON.model_copy(
        update={"label": label, "score": score, "box": box}
    ),
    TEXT, FLOAT, st.tuples(FLOAT, FLOAT, FLOAT, FLOAT),
)  # fmt: skip
NUMBERS = {"epoch": COUNT, "seq": COUNT, "dropped": COUNT}
FRAME = st.fixed_dictionaries(
    {**NUMBERS, "frame_index": COUNT, "skipped": COUNT, "width": COUNT, "height": COUNT,
     "detections": st.lists(DETECTION, max_size=3).map(tuple)}
)  # fmt: skip
STATE = st.fixed_dictionaries(
    {**NUMBERS, "frames": COUNT, "state": st.sampled_from(get_args(CameraState)),
     "reason": TEXT | st.sampled_from(["heartbeat", "events_lost", "stopped"]), "detail": TEXT}
)  # fmt: skip


def changed(event, data, time):
    data = event.data.model_copy(update=data)
    return event.model_copy(update={"data": data, "time": time})


TIME = st.none() | st.datetimes()
EVENT = st.builds(changed, st.just(detections_event()), FRAME, TIME) | st.builds(
    changed, st.just(camera_event()), STATE, TIME
)


@given(st.lists(st.tuples(EVENT, st.integers(0, 2**45)), max_size=5))
@settings(max_examples=25)
def test_no_event_breaks_the_page(events):
    camera = CameraRecord("gate")
    for event, published_ms in events:
        event = parse_event(event.to_json())
        if not is_plausible(event):
            continue
        change = camera.add(event, published_ms / 1000)
        camera.recall("up", "connected", str(event.data.epoch))
        for now in (0.0, published_ms / 1000, 4e9):
            for found in (camera.describe(now), camera.newest, change):
                sent = Message("camera", "gate", found).frame
                json.loads(sent.partition(b"data: ")[2])
