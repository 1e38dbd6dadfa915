"""The settings of `ssd-worker dashboard`."""

import pytest

from worker.errors import UsageError
from worker.settings.dashboard import DashboardSettings, split_address
from worker.settings.loading import load_settings


def load(*arguments):
    return load_settings(DashboardSettings, "dashboard", list(arguments))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8080", ("127.0.0.1", 8080)), ("0", ("127.0.0.1", 0)),
        ("0.0.0.0:80", ("0.0.0.0", 80)), ("[::1]:8080", ("::1", 8080)), ("[::]:1", ("::", 1)),
        ("gate.local:65535", ("gate.local", 65535)),
    ],
)  # fmt: skip
def test_an_address_is_split(text, address):
    assert split_address(text) == address
    assert load("--listen", text).address == address


@pytest.mark.parametrize(
    "text", ["", ":8080", "localhost", "::1:8080", "host:", "host:80a", "host:65536", "host:-1",
             "host:٣", "http://host:80"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text):
    with pytest.raises(UsageError, match="--listen"):
        load(f"--listen={text}")


def test_the_page_listens_on_this_machine_alone_unless_it_is_told_otherwise():
    assert load().address == ("127.0.0.1", 8080)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--auth-user", "me"), "belong together"),
        (("--auth-password", "password"), "belong together"),
        (("--auth-user", "a:b", "--auth-password", "password"), "cannot contain a colon"),
        (("--redis-url", "none"), "no events to show"),
        (("--allowed-hosts", "a,,b"), "--allowed-hosts"),
        (("--allowed-hosts", "http://a"), "--allowed-hosts"),
        (("--allowed-hosts", "a:80"), "without port"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, words):
    with pytest.raises(UsageError, match=words):
        load(*arguments)


def test_names_of_hosts_are_split():
    assert load("--allowed-hosts", "a.example, b.example").allowed_hosts == [
        "a.example",
        "b.example",
    ]
