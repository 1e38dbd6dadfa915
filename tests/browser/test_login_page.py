"""The login form, in front of a dashboard with a token."""

import pytest

from tests.browser.conftest import Dashboard
from tests.browser.page import Page

TOKEN = "0123456789abcdef0123"


@pytest.fixture
def guarded(server, tmp_path):
    dashboard = Dashboard(server.url, tmp_path, token=TOKEN)
    dashboard.start()
    yield dashboard
    dashboard.stop()


@pytest.mark.long
def test_only_the_token_leads_to_the_page_that_was_asked_for(browser, guarded):
    page = Page(browser, guarded.url)
    page.driver.get(f"{guarded.url}/camera/gate")
    assert page.text("h1") == "Log in"
    assert page.accessibility_problems() == []
    page.find("#token").send_keys("not the token at all", "\n")
    page.wait_for(
        "document.querySelector('#problem:not([hidden])')?.innerText.includes('not the token')"
    )
    page.find("#token").send_keys(TOKEN, "\n")
    page.wait_for("document.body.dataset.trusted === 'true'")
    assert page.text("h1") == "gate"
    assert TOKEN not in page.driver.current_url
    page.find("#logout button").click()
    page.wait_for("document.querySelector('h1')?.innerText === 'Log in'")
    page.driver.get(f"{guarded.url}/camera/gate")
    assert page.text("h1") == "Log in"
    assert page.errors() == []
    page.leave()
