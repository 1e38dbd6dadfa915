"""Commands of Redis that several parts of the dashboard use.

Raises what redis-py raises.
"""

from typing import Any

from worker.servers.address import RedisClient


def replies_of(pipeline: Any) -> list[Any]:
    """The replies of a pipeline; None where a key is of another type than it should be."""
    replies: list[Any] = pipeline.execute(raise_on_error=False)
    for place, reply in enumerate(replies):
        if isinstance(reply, Exception):
            if "WRONGTYPE" not in str(reply):
                raise reply
            replies[place] = None
    return replies


def time_of(client: RedisClient) -> float:
    """The time of the server in Unix seconds; in a cluster, of one of its servers."""
    found = client.time()
    if isinstance(found, dict):
        found = next(iter(found.values()))
    seconds, microseconds = found
    return float(seconds + microseconds / 1e6)
