"""The page of one camera: areas drawn are the areas printed, charts, changes."""

import tomllib

import pytest

from tests.browser.publishing import PublishedCamera, found
from tests.conftest import wait_until
from worker.settings.camera_table import check_table


def printed(page, camera_id="gate"):
    """The `ignore` that the page gives, as the worker reads it from a cameras file."""
    table = tomllib.loads(page.js("document.querySelector('#toml').value"))["cameras"][camera_id]
    checked, wrong = check_table({"source": "rtsp://gate.local/x", **table}, None)
    assert wrong == []
    return checked


def start_drawing(page):
    page.find("#area-buttons button").click()


def test_the_polygon_drawn_with_the_mouse_is_the_polygon_printed(page, gate):
    page.open("/camera/gate")
    start_drawing(page)
    corners = [(0.1, 0.2), (0.6, 0.2), (0.6, 0.8), (0.1, 0.2)]  # the last closes it
    page.click_at(".surface", *corners)
    assert "Area 1: 3 corners, 15 % of the picture" in page.text("#areas")
    (polygon,) = printed(page).ignore
    for drawn, point in zip(corners, polygon, strict=False):
        assert point == pytest.approx(drawn, abs=0.005)
    page.click_at(".surface", (0.7, 0.1), (0.9, 0.1), (0.9, 0.3))
    page.find("#area-buttons button:last-child").click()
    assert len(printed(page).ignore) == 2
    page.find(".area-list li:first-child button").click()
    assert len(printed(page).ignore) == 1
    page.open("/camera/gate")  # a reload loses no work
    assert printed(page).ignore[0][0] == pytest.approx((0.7, 0.1), abs=0.005)


@pytest.mark.long
def test_a_corner_is_dragged_and_moved_with_keys(page, gate):
    page.open("/camera/gate")
    start_drawing(page)
    page.click_at(".surface", (0.2, 0.2), (0.6, 0.2), (0.6, 0.6), (0.2, 0.2))
    width = page.find(".surface").size["width"]
    page.drag(".handle", round(-0.1 * width), 0)
    assert printed(page).ignore[0][0] == pytest.approx((0.1, 0.2), abs=0.005)
    page.press("ARROW_RIGHT", "ARROW_DOWN")
    assert printed(page).ignore[0][0] == pytest.approx((0.12, 0.22), abs=0.005)


def test_a_polygon_is_drawn_with_the_keyboard_alone(page, gate):
    page.open("/camera/gate")
    page.js("document.querySelector('#area-buttons button').focus()")
    page.press("ENTER")
    assert "Escape gives up" in page.text("#drawing-help")
    page.press("ENTER")
    page.press(*["ARROW_RIGHT"] * 5, "ENTER")
    page.press(*["ARROW_DOWN"] * 5, "ENTER")
    assert page.text(".said") == "Point 3 at 60 % from the left, 60 % from the top"
    page.press("ENTER")  # where the last point is: the area is done
    assert printed(page).ignore == [((0.5, 0.5), (0.6, 0.5), (0.6, 0.6))]


@pytest.mark.long
def test_a_polygon_is_drawn_by_touch(page, gate):
    page.resize((360, 740))
    page.command("Emulation.setTouchEmulationEnabled", enabled=True)
    page.open("/camera/gate")
    start_drawing(page)
    for x, y in ((0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.2)):
        left, top, width, height = page.js(
            "(({left, top, width, height}) => [left, top, width, height])"
            "(document.querySelector('.surface').getBoundingClientRect())"
        )
        touch = [{"x": left + x * width, "y": top + y * height}]
        page.command("Input.dispatchTouchEvent", type="touchStart", touchPoints=touch)
        page.command("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    page.command("Emulation.setTouchEmulationEnabled", enabled=False)
    assert printed(page).ignore[0][2] == pytest.approx((0.8, 0.8), abs=0.005)


@pytest.mark.long
def test_boxes_in_an_area_are_drawn_as_left_out_by_the_anchor_chosen(page, gate):
    page.open("/camera/gate")
    start_drawing(page)
    page.click_at(".surface", (0.1, 0.7), (0.9, 0.7), (0.9, 0.95), (0.1, 0.95), (0.1, 0.7))
    in_it = found("Person", box=(0.4, 0.3, 0.6, 0.9))  # its feet are, its centre is not
    left_out = "document.querySelectorAll('.boxes .ignored').length"
    wait_until(gate.detect_while(lambda: page.js(left_out) == 1, in_it), what="it to be left out")
    page.choose(".result select", "centre")
    wait_until(
        gate.detect_while(lambda: len(page.boxes()) == 1 and page.js(left_out) == 0, in_it),
        what="it to count",
    )
    assert printed(page).anchor == "centre"


@pytest.mark.long
def test_the_table_of_a_camera_of_another_tool_has_its_name_quoted(page, sink):
    camera_id = 'yard "2"/ü.\t'
    PublishedCamera(sink, camera_id).up()
    page.open("/camera/yard%20%222%22%2F%C3%BC.%09")
    page.wait_for("!document.querySelector('#content').hidden")
    start_drawing(page)
    page.click_at(".surface", (0.1, 0.1), (0.5, 0.1), (0.5, 0.5), (0.1, 0.1))
    assert len(printed(page, camera_id).ignore) == 1


@pytest.mark.long
def test_an_area_without_extent_is_refused_with_a_reason(page, gate):
    page.open("/camera/gate")
    start_drawing(page)
    page.click_at(".surface", (0.1, 0.5), (0.5, 0.5), (0.9, 0.5))
    page.find("#area-buttons button:last-child").click()
    assert "has no area" in page.text(".said")
    assert page.texts(".area-list li") == []


def test_the_camera_page_shows_its_picture_charts_coverage_and_changes(page, sink):
    porch = PublishedCamera(sink, "porch")
    porch.up()
    porch.snapshot()
    for _ in range(3):
        porch.detect(found("Person"), found("Car"))
    page.open("/camera/porch")
    page.wait_for("document.querySelector('#picture img:not([hidden])')")
    page.wait_for("document.querySelectorAll('.chart').length === 2")
    assert page.text(".chart h3") == "Car"
    assert "3 in all" in page.text(".chart")
    page.wait_for("document.querySelector('.coverage svg')?.getAttribute('aria-label')")
    assert "the first frame has arrived" in page.text("#changes")
    porch.down("unauthorized")
    page.wait_for("document.querySelector('#state').innerText === 'Down'", timeout=3)
    assert "wrong user or password" in page.text("#changes tr:first-child")
    assert "wrong user or password" in page.text("#since")


@pytest.mark.long
def test_a_camera_that_is_not_known_is_said_so_and_appears_once_it_is(page, sink):
    page.open("/camera/later")
    page.wait_for("!document.querySelector('#missing').hidden")
    assert "This camera is not known" in page.text("#missing")
    PublishedCamera(sink, "later").up()
    page.wait_for("!document.querySelector('#content').hidden")
    assert page.text("#state") == "Up"
