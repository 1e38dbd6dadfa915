import pytest

from worker.errors import UsageError
from worker.servers.address import destination


def test_the_databases_of_one_server_are_different_destinations():
    assert destination("redis://host:6379/1") != destination("redis://host:6379/0")
    assert destination("redis://host:6379/1") != destination("redis://host:6379/2")
    assert destination("unix:///run/s?db=1") != destination("unix:///run/s?db=2")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("redis://host:6379", "redis://host:6379/0"),
        ("redis://host:6379/1", "redis://host:6379?db=1"),
        ("redis://host:6379/1", "redis://USER:PASSWORD@host:6379/1"),
        ("redis://host:6379/3?db=1", "redis://host:6379/1"),  # as redis-py reads it
        ("unix:///run/s", "unix:///run/s?db=0"),
    ],
)
def test_one_database_is_one_destination_however_it_is_written(one, other):
    assert destination(one) == destination(other)


def test_a_destination_contains_no_secret():
    assert "word" not in destination("rediss://user:pass-word@host/1?ssl_password=key-word")


def test_a_url_with_an_ambiguous_host_has_no_destination():
    with pytest.raises(UsageError, match=r"write @ : / # .* as %40") as caught:
        destination("redis://:pass/word@host")
    assert "word" not in str(caught.value).replace("user and password", "")
