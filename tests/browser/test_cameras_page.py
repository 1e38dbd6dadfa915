"""The first page: cameras, boxes, states, filters and the feed, as a reader sees them."""

import time

import pytest

from tests.browser.publishing import PublishedCamera, found
from tests.conftest import wait_until


def card(camera_id):
    return f".camera:has(a[href='/camera/{camera_id}'])"


def test_without_cameras_the_page_says_how_to_start_one(page, sink):
    page.open()
    assert "No camera yet" in page.text("#empty")
    assert "ssd-worker run" in page.text("#empty pre")


def test_cameras_appear_with_picture_and_state_and_go_when_forgotten(page, server, sink, gate):
    page.open()
    page.wait_for("document.querySelectorAll('.camera').length === 1")
    assert page.text(f"{card('gate')} .badge") == "Up"
    PublishedCamera(sink, "alley").up()
    page.wait_for("document.querySelectorAll('.camera').length === 2")
    assert page.texts(".camera h2") == ["alley", "gate"]
    assert "No picture" in page.text(f"{card('gate')} .no-picture")
    gate.snapshot(size=(240, 180))
    page.wait_for("document.querySelector('.camera img:not([hidden])')?.naturalWidth === 240")
    assert page.text(f"{card('gate')} .no-picture") == ""
    server.client.flushall()  # as `ssd-worker forget` does
    page.wait_for("!document.querySelector('#empty').hidden")
    assert page.texts(".camera") == []


def test_boxes_move_with_events_and_vanish_without(page, gate):
    page.open()
    for x in (0.1, 0.6):
        gate.detect(found("Person", box=(x, 0.2, x + 0.2, 0.9)))
        wait_until(lambda x=x: page.boxes() == [["Person", x * 100, 20]], what="the box")
    assert page.text(f"{card('gate')} .seen") == "1 Person"
    wait_until(lambda: page.boxes() == [], what="the box to vanish")


@pytest.mark.long
def test_boxes_are_those_of_the_picture_unless_the_newest_are_wanted(page, gate):
    page.open()
    gate.detect(found("Person", box=(0.1, 0.1, 0.2, 0.9)))
    gate.snapshot(of_last_event=True)
    page.wait_for("document.querySelector('.camera img:not([hidden])')")
    gate.detect(found("Person", box=(0.6, 0.1, 0.7, 0.9)))
    page.wait_for("document.querySelector('#feed').children.length > 0")
    wait_until(lambda: page.boxes() == [["Person", 10, 10]], what="the box of the picture")
    page.choose("#filters select", "newest")
    gate.detect(found("Person", box=(0.7, 0.1, 0.8, 0.9)))
    wait_until(lambda: page.boxes() == [["Person", 70, 10]], what="the newest box")


@pytest.mark.long
def test_boxes_of_events_that_waited_are_not_drawn_as_live(page, gate):
    page.open()
    gate.detect(found("Person"), ago=60)
    page.wait_for("document.querySelector('#feed').innerText.includes('1 Person')")
    assert page.boxes() == []


@pytest.mark.long
def test_an_old_picture_is_shown_as_old(page, gate):
    gate.snapshot(ago=90)
    page.open()
    page.wait_for("document.querySelector('.frame.old img:not([hidden])')")
    assert page.text(f"{card('gate')} .age") == "1 min old"
    gate.snapshot()
    page.wait_for("document.querySelector('.frame:not(.old) img:not([hidden])')")
    assert page.text(f"{card('gate')} .age") == ""


def test_a_camera_that_goes_down_is_shown_within_three_seconds(page, gate):
    page.open()
    page.wait_for("document.querySelector('.camera[data-state=up]')")
    gate.down("refused")
    page.wait_for("document.querySelector('.camera[data-state=down]')", timeout=3)
    assert page.text(f"{card('gate')} .badge") == "Down"
    assert "nothing listens at its address" in page.text(f"{card('gate')} .since")
    assert page.texts(f"{card('gate')} dd") == ["\N{EN DASH}"] * 3
    assert page.text("#summary") == "1 down · look at: gate"
    assert "Down nothing listens" in page.text("#feed").replace("\n", " ")
    assert page.text("#announcer") == "Camera gate: Down"


def test_filters_choose_boxes_feed_and_cameras(page, sink, gate):
    page.open()
    PublishedCamera(sink, "yard").up()
    both = found("Person", 0.9), found("Car", 0.5)
    wait_until(gate.detect_while(lambda: len(page.boxes()) == 2, *both), what="both boxes")
    page.find("#filters details:nth-of-type(2) summary").click()
    page.find("#filters input[value=Car]").click()
    page.press("ESCAPE")
    wait_until(gate.detect_while(lambda: len(page.boxes()) == 1, *both), what="one box")
    assert page.boxes()[0][0] == "Car"
    assert "Person" not in page.text("#feed")
    assert "label=Car" in page.driver.current_url
    page.choose("#filters input[type=range]", "0.6")
    wait_until(gate.detect_while(lambda: page.boxes() == [], *both), what="no box")
    page.open("/?camera=yard")
    wait_until(lambda: page.texts("#cameras h2") == ["yard"], what="the camera chosen alone")


@pytest.mark.long
def test_the_feed_can_be_paused_and_loses_nothing(page, gate):
    page.open()
    page.find("#pause").click()
    gate.detect(found("Dog"))
    page.wait_for("document.querySelector('#pause').innerText === 'Resume (1 new)'")
    assert "Dog" not in page.text("#feed")
    page.find("#pause").click()
    assert "1 Dog" in page.text("#feed")


def test_entries_that_are_not_events_are_counted_and_disturb_nothing(page, server, gate):
    page.open()
    for fields in ({"event": "<b>no</b>"}, {"other": "x"}):
        server.client.xadd("ssd:{gate}:detections", fields)
    wait_until(gate.detect_while(lambda: page.boxes(), found("Person")), what="the box")
    page.wait_for("document.querySelector('#remarks').innerText.includes('2 entries are not')")
    assert page.errors() == []


def test_names_and_labels_never_become_markup(page, sink, gate):
    hostile = "<img src=x onerror=\"document.title='run'\">"
    camera_id = f"{hostile}/{{ü}} \"'"
    foreign = PublishedCamera(sink, camera_id)
    foreign.say("up", hostile)
    page.open()
    page.wait_for("document.querySelectorAll('.camera').length === 2")
    wait_until(foreign.detect_while(lambda: page.boxes(), found(hostile)), what="the box")
    assert page.boxes()[0][0] == hostile
    assert f"1 {hostile}" in page.text("#feed")
    page.find("#filters details:nth-of-type(2) summary").click()
    assert hostile in page.texts("#filters .option")
    page.js(
        "[...document.querySelectorAll('.camera a')]"
        ".find((link) => link.innerText.includes('img')).click()"
    )
    page.wait_for("document.body.dataset.trusted === 'true' && document.querySelector('#charts')")
    assert page.text("h1") == camera_id
    assert page.js("document.querySelectorAll('main img[src=x]').length") == 0
    assert "run" not in page.driver.title.split(hostile)
    assert page.errors() == []


@pytest.mark.parametrize("lost", ["redis", pytest.param("dashboard", marks=pytest.mark.long)])
def test_an_outage_is_said_and_survived(page, server, dashboard, gate, lost):
    page.open()
    page.wait_for("document.querySelector('.camera[data-state=up]')")
    taken_away = server if lost == "redis" else dashboard
    taken_away.stop()
    try:
        page.wait_for("document.querySelector('.camera[data-state=unknown]')", timeout=10)
        words = "Redis does not answer" if lost == "redis" else "No connection to the dashboard"
        assert words in page.text("#notices")
        assert "Live" not in page.text("#connection")
    finally:
        taken_away.start()
    page.wait_for("document.body.dataset.trusted === 'true'", "the page to recover")
    assert page.text("#notices") == ""
    wait_until(gate.detect_while(lambda: page.boxes(), found("Cat")), what="a box after it")
    assert page.text(f"{card('gate')} .badge") == "Up"


def test_the_keyboard_reaches_everything(page, gate):
    page.open()
    page.wait_for("document.querySelector('.camera')")
    page.press("TAB", "ENTER")  # the link past the header
    page.press("TAB")
    assert page.js("document.activeElement.innerText").startswith("Cameras:")
    page.press("SPACE", "TAB", "SPACE")
    assert "camera=gate" in page.driver.current_url
    page.press("ESCAPE")
    assert not page.js("document.querySelector('#filters details').open")
    steps = time.monotonic() + 10
    while page.js("document.activeElement.innerText") != "gate" and time.monotonic() < steps:
        page.press("TAB")
    page.press("ENTER")
    page.wait_for("location.pathname === '/camera/gate'")
