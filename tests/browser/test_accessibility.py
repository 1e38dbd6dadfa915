"""axe-core finds nothing serious, in either theme, and no page is wider than a phone."""

import pytest

from tests.browser.page import PHONE
from tests.browser.publishing import PublishedCamera, found
from tests.browser.test_replay_page import clip  # noqa: F401

PICTURE = ".stage img:not([hidden])"
PAGES = {
    "/": (PICTURE, ".coverage svg", "#feed li, #feed-empty", "#replay-list a"),
    "/camera/gate": (PICTURE, ".coverage svg", ".chart", "#changes tr"),
    "/replay/clip": (".row", "#found tr"),
    "/camera/none": ("#missing:not([hidden])",),
}
"""What a page has when it is complete."""
LESS_FULL = ["/replay/clip", "/camera/none"]


@pytest.fixture
def full(sink, gate, clip):  # noqa: F811
    """Every state that a page may show."""
    PublishedCamera(sink, "yard").down("timeout")
    late = PublishedCamera(sink, "late-one-with-a-name-as-long-as-names-may-be-0123456789-0123456")
    late.up()
    late.say("degraded", "late")
    gate.snapshot(ago=20)
    gate.detect(found("Person"), found("Car", 0.5))
    return gate


@pytest.mark.parametrize(
    "path", ["/", "/camera/gate", *(pytest.param(p, marks=pytest.mark.long) for p in LESS_FULL)]
)
def test_a_page_fits_a_phone_and_axe_finds_nothing_serious(page, full, path):
    page.open(path)
    for part in PAGES[path]:
        page.wait_for(f"document.querySelector('{part}')")
    if path == "/camera/gate":
        page.find("#area-buttons button").click()
        page.click_at(".surface", (0.1, 0.2), (0.6, 0.2), (0.6, 0.8), (0.1, 0.2))
    for theme in ("light", "dark"):
        page.prefer(theme)
        assert page.accessibility_problems() == [], theme
    assert page.errors() == []
    page.resize(PHONE)
    assert page.js("document.documentElement.scrollWidth") <= PHONE[0]
    small = (
        "[...document.querySelectorAll('button, select, summary, input[type=file] + label')]"
        ".filter((each) => each.checkVisibility() && each.offsetHeight < 24)"
        ".map((each) => each.outerHTML)"
    )
    assert page.js(small) == []  # WCAG 2.2, target size


@pytest.mark.long
def test_the_theme_chosen_stays(page, sink):
    page.open()
    page.choose("#theme", "dark")
    page.open()
    assert page.js("getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 22)"
    assert page.js("document.querySelector('#theme').value") == "dark"
