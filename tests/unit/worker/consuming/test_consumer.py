import pytest

from worker.consumer import EventConsumer
from worker.errors import SinkUnavailable


def test_the_client_of_a_consumer_repeats_no_command_by_itself(monkeypatch):
    """A real cluster shows why: tests/faults/test_consumers_connections.py, in some seconds."""
    asked = {}

    def refuse(url, **options):
        asked.update(options)
        raise SinkUnavailable("nothing there")

    monkeypatch.setattr("worker.consumer.connect", refuse)
    with pytest.raises(SinkUnavailable, match="nothing there"):
        EventConsumer("redis+cluster://127.0.0.1:1")
    assert asked == {"retries": 0}
