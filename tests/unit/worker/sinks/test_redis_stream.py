from unittest import mock

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError, NoPermissionError

from worker.errors import SinkError, SinkUnavailable
from worker.sinks.redis_stream import RedisStreamSink


@pytest.mark.parametrize(
    ("error", "explained", "closed"),
    [
        (NoPermissionError("this user has no permissions"), SinkError, False),
        (RedisConnectionError("closed by the server"), SinkUnavailable, True),
    ],
)
def test_only_an_unavailable_server_costs_the_connection(error, explained, closed):
    sink = RedisStreamSink("redis://127.0.0.1:1")
    client = mock.Mock()
    client.client.hget.side_effect = error
    sink._redis = client
    with pytest.raises(explained):
        sink.last_epoch("gate")
    assert client.client.close.called == closed
    sink.close()
