import pytest

from tests.events import PERSON, camera_event, detections_event
from worker.consuming.filtering import EventFilter
from worker.errors import UsageError
from worker.events import Detection

CAR = Detection(label="Car", class_id=5, score=0.5, box=(0.1, 0.2, 0.3, 0.4))
BOTH = detections_event(detections=(PERSON, CAR))
EMPTY = detections_event(detections=())
DOWN = camera_event(state="down", reason="stall")


@pytest.mark.parametrize("event", [BOTH, EMPTY, DOWN])
def test_without_filters_everything_is_wanted(event):
    assert EventFilter.of(None, None, None).wants(event)


@pytest.mark.parametrize(
    ("labels", "threshold", "wanted"),
    [
        (["Person"], None, True),
        (["Tree", "Car"], None, True),
        (["Tree"], None, False),
        (None, 0.8, True),
        (None, 0.9, False),  # the score must be above it
        (["Car"], 0.4, True),
        (["Car"], 0.5, False),  # Person's score does not count for Car
        (["Car", "Person"], 0.5, True),
    ],
)
def test_one_detection_must_have_the_label_and_the_score(labels, threshold, wanted):
    assert EventFilter.of(labels, threshold, None).wants(BOTH) is wanted


def test_an_event_without_detections_is_not_wanted_by_label_or_score():
    assert not EventFilter.of(["Person"], None, None).wants(EMPTY)
    assert not EventFilter.of(None, 0, None).wants(EMPTY)


@pytest.mark.parametrize(
    ("labels", "states", "wanted"),
    [
        (None, ["down"], {"down"}),
        (None, ["up", "ended"], set()),
        (["Person"], None, {"detections"}),
        (["Person"], ["down"], {"detections", "down"}),
    ],
)
def test_what_no_filter_names_is_not_wanted(labels, states, wanted):
    chosen = EventFilter.of(labels, None, states)
    found = {name for name, event in (("detections", BOTH), ("down", DOWN)) if chosen.wants(event)}
    assert found == wanted


@pytest.mark.parametrize(
    ("labels", "threshold", "states", "words"),
    [
        ("Person", None, None, "labels: 'Person': expected a list of names"),
        ([], None, None, "labels: []: expected a list of names"),
        (None, None, "down", "states: 'down': expected a list of names"),
        (None, None, ["dwon"], "unknown state 'dwon': use up, down, degraded, ended"),
        (None, 1, None, "score_threshold: 1: expected 0 or more, below 1"),
        (None, -0.1, None, "score_threshold"),
        (None, float("nan"), None, "score_threshold"),
    ],
)
def test_a_filter_that_cannot_match_is_refused(labels, threshold, states, words):
    with pytest.raises(UsageError) as caught:
        EventFilter.of(labels, threshold, states)
    assert words in str(caught.value)


def test_the_lowest_threshold_is_taken():
    assert EventFilter.of(None, 0, None).wants(BOTH)
