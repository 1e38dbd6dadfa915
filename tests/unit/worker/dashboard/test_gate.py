"""Who is let through to the pages, and what every answer says to browsers."""

import asyncio
import logging
from http.cookies import SimpleCookie

import httpx
import pytest
from starlette.responses import PlainTextResponse

from worker.dashboard.access import COOKIE, WRONG_TRIES, Credentials
from worker.dashboard.gate import MAX_FORM_BYTES, Gate

TOKEN = "0123456789abcdef"
HTML = {"Accept": "text/html,*/*"}


class Browser:
    """Asks an application without a socket, and keeps its cookies."""

    def __init__(self, app, url):
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=url)

    def get(self, path, **options):
        return asyncio.run(self._client.get(path, **options))

    def post(self, path, **options):
        return asyncio.run(self._client.post(path, **options))


@pytest.fixture
def visit(tmp_path):
    """A browser at a page that says "seen", behind a gate."""
    login = tmp_path / "login.html"
    login.write_text("the login form")

    def visit(*credentials, hosts=None, scheme="http"):
        gate = Gate(PlainTextResponse("seen"), Credentials(*credentials), login, hosts)
        return Browser(gate, f"{scheme}://localhost")

    return visit


def test_without_credentials_everybody_is_let_through(visit):
    assert visit().get("/").text == "seen"


def test_every_answer_tells_browsers_what_they_may_not_do(visit):
    for browser, path in ((visit(), "/"), (visit(TOKEN), "/api/state"), (visit(hosts=["x"]), "/")):
        headers = browser.get(path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200), ("localhost", 200), ("[::1]:8080", 200), ("Cameras.local", 200),
        ("evil.example", 421), ("localhost.evil.example", 421), ("", 421),
    ],
)  # fmt: skip
def test_another_host_name_is_refused_on_loopback(visit, host, status):
    answer = visit(hosts=["cameras.local"]).get("/", headers={"Host": host})
    assert answer.status_code == status
    assert status == 200 or "--allowed-hosts" in answer.json()["error"]


def test_any_host_name_will_do_elsewhere(visit):
    assert visit(hosts=None).get("/", headers={"Host": "gate.example"}).text == "seen"


def test_people_without_the_token_see_the_form_and_programs_a_line(visit):
    browser = visit(TOKEN)
    page = browser.get("/camera/gate", headers=HTML)
    assert (page.status_code, page.text) == (401, "the login form")
    answer = browser.get("/api/state")
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (
        401, 'Bearer realm="ssd-worker"',
    )  # fmt: skip
    assert "log in" in answer.json()["error"]
    assert browser.get("/static/login.css").text == "seen"
    assert browser.get("/api/state", headers={"Authorization": f"Bearer {TOKEN}"}).text == "seen"


def test_with_a_password_the_browser_asks(visit):
    browser = visit(None, "me", "password")
    answer = browser.get("/", headers=HTML)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert browser.get("/", auth=("me", "password")).text == "seen"
    assert browser.get("/", auth=("me", "passwor")).status_code == 401
    assert browser.get("/login").headers["Location"] == "/"


def test_the_form_gives_a_cookie_and_leads_to_where_it_was_asked_for(visit):
    browser = visit(TOKEN)
    assert browser.get("/login").text == "the login form"
    answer = browser.post("/login", data={"token": f" {TOKEN}\n", "next": "/camera/gate"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/camera/gate")
    cookie = SimpleCookie(answer.headers["Set-Cookie"])[COOKIE]
    assert cookie["httponly"]
    assert cookie["samesite"] == "strict"
    assert not cookie["secure"]
    assert TOKEN not in answer.headers["Set-Cookie"]
    assert browser.get("/").text == "seen"
    assert browser.post("/logout").headers["Location"] == "/login"
    assert browser.get("/").status_code == 401


def test_over_https_the_cookie_is_for_https_alone(visit):
    answer = visit(TOKEN, scheme="https").post("/login", data={"token": TOKEN})
    assert SimpleCookie(answer.headers["Set-Cookie"])[COOKIE]["secure"]


@pytest.mark.parametrize("path", ["//evil.example", "https://evil.example", "/\\evil.example", ""])
def test_the_login_leads_to_no_other_site(visit, path):
    answer = visit(TOKEN).post("/login", data={"token": TOKEN, "next": path})
    assert answer.headers["Location"] == "/"


def test_a_wrong_token_is_told_in_the_form_and_after_ten_all_have_to_wait(visit, caplog):
    caplog.set_level(logging.DEBUG)
    browser = visit(TOKEN)
    wrong = {"Authorization": "Bearer wrong-token-wrong"}
    assert browser.post("/login", data={"token": "wrong"}).headers["Location"] == "/login?wrong"
    for _ in range(WRONG_TRIES - 1):
        assert browser.get("/api/state", headers=wrong).status_code == 401
    answer = browser.get("/api/state", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0
    assert browser.post("/login", data={"token": TOKEN}).headers["Location"] == "/login?wait"
    assert browser.get("/api/state").status_code == 401  # to ask is no try
    assert "a wrong token or password from 127.0.0.1" in caplog.text
    assert TOKEN not in caplog.text
    assert "wrong-token" not in caplog.text


def test_who_is_logged_in_is_not_locked_out_by_others_of_the_same_address(visit):
    browser = visit(TOKEN)
    browser.post("/login", data={"token": TOKEN})
    for _ in range(2 * WRONG_TRIES):
        browser.post("/login", data={"token": "wrong"})
    assert browser.get("/").text == "seen"


def test_a_huge_form_is_refused(visit):
    answer = visit(TOKEN).post("/login", data={"token": "x" * MAX_FORM_BYTES})
    assert (answer.status_code, answer.json()["error"]) == (413, "the form is too large")
