"""Reading Redis for one request: in a thread, a few at a time, so that no request delays another's.

Raises SinkError, whose message is for the log: it names the server.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from worker.dashboard.feed import REPLY_TIMEOUT_SECONDS
from worker.servers.address import REDIS_ERRORS, RedisClient, connect, explain, server_of_url

MAX_AT_ONCE = 4

T = TypeVar("T")


class Queries:
    """Runs functions of a client."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: RedisClient | None = None
        self._lock = threading.Lock()
        self._limiter = anyio.CapacityLimiter(MAX_AT_ONCE)

    async def run(self, query: Callable[[RedisClient], T]) -> T:
        """What a function gives when called with a client, in a thread. Raises SinkError."""
        return await anyio.to_thread.run_sync(
            self._run, query, limiter=self._limiter, abandon_on_cancel=True
        )

    def _run(self, query: Callable[[RedisClient], T]) -> T:
        with self._lock:
            if self._client is None:
                self._client = connect(self._url, REPLY_TIMEOUT_SECONDS)
            client = self._client
        try:
            return query(client)
        except REDIS_ERRORS as error:
            raise explain(error, server_of_url(self._url)) from error
