"""Tokens, passwords, cookies, tries, and the names of hosts."""

import base64

import pytest

from worker.dashboard import access
from worker.dashboard.access import (
    COOKIE,
    COOKIE_SECONDS,
    FORGIVE_SECONDS,
    MAX_ADDRESSES,
    WRONG_TRIES,
    Credentials,
    Tries,
    host_of,
    is_loopback,
)

TOKEN = "0123456789abcdef"
BOTH = Credentials(TOKEN, "me", "pässword: 1")


@pytest.fixture
def clock(monkeypatch):
    found = [1_000_000.0]
    monkeypatch.setattr(access.time, "time", lambda: found[0])
    monkeypatch.setattr(access.time, "monotonic", lambda: found[0])
    return found


def basic(text):
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("header", "fits"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {TOKEN} ", True),
        (f"Bearer {TOKEN}0", False),
        (f"Bearer {TOKEN[:-1]}", False),
        ("Bearer", False),
        (TOKEN, False),
        (basic("me:pässword: 1"), True),
        (basic("me:password"), False),
        (basic("you:pässword: 1"), False),
        (basic(f"me:{TOKEN}"), False),
        (basic(TOKEN), False),
        ("Basic %%%", False),
        ("Basic " + "é", False),
        ("", False),
    ],
)
def test_a_header_fits_with_the_token_or_with_user_and_password(header, fits):
    assert BOTH.fit_header(header) == fits


def test_what_was_not_set_lets_nobody_in():
    nothing = Credentials()
    assert not nothing.are_needed
    for header in ("Bearer ", "Bearer None", basic(":"), basic("None:None")):
        assert not nothing.fit_header(header)
        assert not Credentials(TOKEN).fit_header(header)
    assert not nothing.fit_cookie(f"{COOKIE}={nothing.new_cookie()}")
    assert not Credentials(None, "me", "password").fit_cookie(f"{COOKIE}={BOTH.new_cookie()}")


def test_a_cookie_lets_in_until_it_is_over(clock):
    cookie = BOTH.new_cookie()
    assert TOKEN not in cookie
    assert BOTH.fit_cookie(f"a=b; {COOKIE}={cookie}; c=d")
    assert Credentials(TOKEN).fit_cookie(f"{COOKIE}={cookie}")  # after a restart
    assert not Credentials(TOKEN + "x").fit_cookie(f"{COOKIE}={cookie}")
    clock[0] += COOKIE_SECONDS - 1
    assert BOTH.fit_cookie(f"{COOKIE}={cookie}")
    clock[0] += 2
    assert not BOTH.fit_cookie(f"{COOKIE}={cookie}")


def test_a_forged_cookie_does_not(clock):
    until, _, signature = BOTH.new_cookie().partition(".")
    later = str(int(until) + 1)
    for value in (
        f"{later}.{signature}", f"{until}.", until, "", f"{until}.{signature}0", f"inf.{signature}",
        ".", f"{until}.{signature[:-1]}{'0' if signature[-1] != '0' else '1'}",
    ):  # fmt: skip
        assert not BOTH.fit_cookie(f"{COOKIE}={value}"), value
    assert not BOTH.fit_cookie("é=\x00; ,")


def test_who_has_tried_too_often_waits_and_others_do_not(clock):
    tries = Tries()
    for _ in range(WRONG_TRIES):
        assert tries.wait_seconds("10.0.0.1") == 0
        tries.count("10.0.0.1")
    assert tries.wait_seconds("10.0.0.1") == pytest.approx(FORGIVE_SECONDS)
    assert tries.wait_seconds("10.0.0.2") == 0
    clock[0] += FORGIVE_SECONDS
    assert tries.wait_seconds("10.0.0.1") == 0
    tries.count("10.0.0.1")
    assert tries.wait_seconds("10.0.0.1") > 0
    clock[0] += 1000 * FORGIVE_SECONDS
    for _ in range(WRONG_TRIES):
        assert tries.wait_seconds("10.0.0.1") == 0
        tries.count("10.0.0.1")
    assert tries.wait_seconds("10.0.0.1") > 0


def test_the_addresses_of_one_ipv6_network_are_one(clock):
    tries = Tries()
    for number in range(WRONG_TRIES):
        tries.count(f"2001:db8::{number:x}")
    assert tries.wait_seconds("2001:db8::ffff") > 0
    assert tries.wait_seconds("2001:db8:0:1::1") == 0


def test_the_ipv4_addresses_of_an_ipv6_socket_are_many(clock):
    tries = Tries()
    for _ in range(WRONG_TRIES):
        tries.count("::ffff:10.0.0.1")
    assert tries.wait_seconds("10.0.0.1") > 0
    assert tries.wait_seconds("::ffff:10.0.0.2") == 0


def test_tries_are_forgotten_before_memory_is_full(clock):
    tries = Tries()
    for number in range(MAX_ADDRESSES + 10):
        tries.count(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(tries._full_at) == MAX_ADDRESSES
    tries.count("a name")
    assert tries.wait_seconds("") == 0


@pytest.mark.parametrize(
    ("host", "is_it"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True),
        ("::ffff:127.0.0.1", True), ("::ffff:10.0.0.1", False),
        ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("gate.local", False), ("", False),
        ("localhost.evil.example", False),
    ],
)  # fmt: skip
def test_what_only_this_machine_can_reach(host, is_it):
    assert is_loopback(host) == is_it


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("localhost:8080", "localhost"), ("LocalHost", "localhost"), ("[::1]:8080", "[::1]"),
        ("127.0.0.1", "127.0.0.1"), ("", ""), ("evil.example:8080", "evil.example"),
        ("127.0.0.1.evil.example", "127.0.0.1.evil.example"), ("[::1", "[::1]"),
    ],
)  # fmt: skip
def test_the_host_in_a_header(header, host):
    assert host_of(header) == host
