"""The page of a replay: its timeline, and the moment that is chosen in it."""

import pytest

from tests.browser.publishing import found
from tests.conftest import WALKWAY
from tests.events import camera_event, detections_event
from worker.publishing.checkpoint import ReplayClaim


@pytest.fixture
def clip(sink):
    """A replay of 100 frames in 10 s: a Person in each of the first half, a Car at 7.0 s."""
    sink.claim_replay("clip", ReplayClaim(recording="r", model="m", settings="s"), restart=False)
    boxes = [(found("Person"),) if n < 50 else () for n in range(100)]
    boxes[70] = (found("Car", 0.75, (0.5, 0.5, 0.6, 0.6)),)
    events = [
        detections_event("clip", epoch=0, seq=n, mode="replay", detections=boxes[n])
        for n in range(100)
    ]
    ended = camera_event(
        "clip", epoch=0, seq=100, mode="replay", state="ended", reason="end_of_file"
    )
    sink.publish([*events, ended])


def test_a_click_in_the_timeline_shows_that_moments_detections(page, clip):
    page.open("/")
    page.wait_for("document.querySelector('#replay-list a')").click()
    page.wait_for("document.querySelectorAll('.row').length === 2")
    assert page.text("#state") == "Whole"
    assert "100 frames" in page.text("#about")
    page.click_at(".track", (0.25, 0.5))
    page.wait_for("document.querySelector('#moment').innerText.endsWith('1 Person')")
    assert page.boxes() == [["Person", 25, 25]]
    length = page.js("Number(document.querySelector('.track').getAttribute('aria-valuemax'))")
    page.click_at(".track", (7.0 / length, 0.5))
    page.wait_for("document.querySelector('#moment').innerText === '7.00 s, frame 70: 1 Car'")
    assert page.texts("#found td") == ["Car", "0.75", "50 %, 50 % to 60 %, 60 %"]
    page.press("ARROW_RIGHT")
    page.wait_for("document.querySelector('#moment').innerText.endsWith('nothing detected')")
    assert page.boxes() == []
    page.press("HOME")
    page.wait_for("document.querySelector('#moment').innerText === '0.00 s, frame 0: 1 Person'")
    assert page.errors() == []


@pytest.mark.long
def test_the_recording_is_shown_below_the_boxes_without_being_uploaded(page, clip):
    page.open("/replay/clip#at=7")
    page.wait_for("document.querySelector('#moment').innerText.includes('1 Car')")
    page.find("#file").send_keys(str(WALKWAY))
    page.wait_for("document.querySelector('video:not([hidden])')?.readyState >= 2")
    assert page.js("document.querySelector('video').currentTime") == pytest.approx(7, abs=0.01)
    assert "walkway.mp4 is 15.0" in page.text("#file-note")  # 5 s longer than the replay
    assert page.errors() == []


@pytest.mark.long
def test_a_replay_that_is_not_known_is_said_so(page, sink):
    page.open("/replay/none")
    page.wait_for("!document.querySelector('#missing').hidden")
    assert "ssd-worker replay" in page.text("#missing")
