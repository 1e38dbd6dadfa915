from urllib.parse import quote

import pytest

from worker.secrecy import redaction
from worker.secrecy.redaction import (
    hide,
    hide_value,
    redact,
    redact_argument,
    redact_arguments,
    redact_url,
)

PASSWORD = "alpha@bravo:charlie/delta#echo?fox%golf hotel"


@pytest.fixture(autouse=True)
def nothing_hidden(monkeypatch):
    monkeypatch.setattr(redaction, "_hidden", {})


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("rtsp://admin:secret@host:554/live?token=abc", "rtsp://host:554"),
        ("rtsp://10.0.0.9/user=admin&password=secret", "rtsp://10.0.0.9"),
        (f"rtsp://admin:{quote(PASSWORD, safe='')}@host/x", "rtsp://host"),
        ("rtsp://admin:sec@ret:more%@host/x", "rtsp://host"),
        (f"rtsp://admin:{PASSWORD}@host/x", "rtsp://..."),
        ("rtsp://admin:1/secret@host", "rtsp://..."),
        ("rtsp://admin:secret[@host", "rtsp://..."),
        ("redis://:pass#word@host:6379/0", "redis://..."),
        ("unix://:secret@/run/redis.sock?password=x", "unix:///run/redis.sock"),
    ],
)
def test_a_redacted_url_has_only_scheme_host_and_port(url, text):
    assert redact_url(url) == text


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("gate=rtsp://admin:secret@host/x", "gate=rtsp://host"),
        ("--redis-url=redis://:secret@host:6379/0", "--redis-url=redis://host:6379"),
        ("gate=admin:secret@host/x", "gate=..."),
        ("admin:secret@host/x", "..."),
        ("clips/friday.mp4", "clips/friday.mp4"),
        ("--max-batch=8", "--max-batch=8"),
    ],
)
def test_a_redacted_argument_has_no_login(argument, text):
    assert redact_argument(argument) == text


@pytest.mark.parametrize("password", [PASSWORD, quote(PASSWORD, safe=""), "s3cret"])
def test_a_hidden_password_is_in_no_text_in_any_form(password):
    url = f"rtsp://watchman:{password}@host/live?password=other-one"
    hide(f"gate={url}")
    text = redact(f"[Errno 5] {url!r}: 'AUTH' 'watchman' '{password}' {quote(PASSWORD, safe='')}")
    if password == "s3cret":
        assert (
            text == f"[Errno 5] 'rtsp://host': 'AUTH' 'watchman' '***' {quote(PASSWORD, safe='')}"
        )
    else:
        assert "alpha" not in text
        assert "hotel" not in text


@pytest.mark.parametrize("option", ["password", "ssl_password", "username"])
def test_a_secret_among_the_options_of_a_url_is_in_no_text(option):
    hide(f"rediss://host:6380?ssl_certfile=client.pem&{option}=key%2dword+one")
    assert redact("wrong key-word one for client.pem") == "wrong *** for client.pem"
    assert redact("wrong key%2dword+one") == "wrong ***"


def test_a_login_is_removed_from_a_url_that_was_never_hidden():
    assert redact("see rtsp://admin:secret@host/x for") == "see rtsp://***@host/x for"
    assert redact("write redis://USER:PASSWORD@HOST") == "write redis://USER:PASSWORD@HOST"


def test_a_short_password_removes_no_words_from_the_log():
    hide("rtsp://admin:gate@host/x")
    assert redact("camera gate: up") == "camera gate: up"
    assert "admin:gate" not in redact("x admin:gate@host")


def test_the_name_of_a_secret_is_not_a_secret():
    hide("rtsp://{GATE_USER}:{GATE_PASSWORD}@host/x")
    assert redact("{GATE_PASSWORD} is not there") == "{GATE_PASSWORD} is not there"
    hide_value("correct horse")
    assert redact("a correct horse") == "a ***"


def test_a_url_is_hidden_with_its_scheme_in_lower_case_too():
    redaction.hide("RTSP://admin:s3cret-word@camera.local/token-7f3a")
    said = redaction.redact("cannot open rtsp://admin:s3cret-word@camera.local/token-7f3a")
    assert said == "cannot open rtsp://camera.local"


def test_the_secrets_of_options_are_not_in_the_command_line_nor_in_a_log_after_it():
    shown = redact_arguments(
        ["dashboard", "--auth-token", "alpha-bravo-charlie", "--auth-password=delta-echo"]
    )
    assert shown == ["dashboard", "--auth-token", "***", "--auth-password=***"]
    assert redact("alpha-bravo-charlie and delta-echo") == "*** and ***"
    assert redact_arguments(["run", "gate=rtsp://a:b@host/x"]) == ["run", "gate=rtsp://host"]
