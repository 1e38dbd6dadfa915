"""The whole dashboard: the feed's thread, the hub, the routes behind the gate, the HTTP server."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Collection

from worker.dashboard.access import Credentials
from worker.dashboard.clock import RedisClock
from worker.dashboard.coverage import CoverageStore
from worker.dashboard.feed import Feed
from worker.dashboard.gate import Gate
from worker.dashboard.history import Histories
from worker.dashboard.hub import Hub
from worker.dashboard.messages import Message
from worker.dashboard.pictures import Pictures
from worker.dashboard.queries import Queries
from worker.dashboard.replays import Replays
from worker.dashboard.routes import STATIC, Dashboard
from worker.dashboard.serving import serve
from worker.keys import Keys


class Application:
    """Serves one Redis server to any number of viewers."""

    def __init__(
        self,
        url: str,
        keys: Keys,
        credentials: Credentials,
        hosts: Collection[str] | None,
    ) -> None:
        """``hosts``: names that the page is served under besides those of loopback; None: any."""
        self._url = url
        self._keys = keys
        self._credentials = credentials
        self._hosts = hosts
        self._stop: Callable[[], None] | None = None
        self._stop_asked = False

    def stop(self) -> None:
        """End soon; callable from any thread or signal handler."""
        self._stop_asked = True
        if self._stop is not None:
            self._stop()

    def serve(self, listener: socket.socket) -> None:
        """Serve until ``stop``."""
        clock = RedisClock()
        hub = Hub(clock)
        queries = Queries(self._url)
        coverage = CoverageStore(queries, self._keys)
        dashboard = Dashboard(
            hub,
            clock,
            Pictures(hub, queries, self._keys),
            Histories(queries, self._keys),
            Replays(queries, self._keys),
            coverage,
        )
        gate = Gate(dashboard, self._credentials, STATIC / "login.html", self._hosts)
        feeds: list[Feed] = []

        def started(stop: Callable[[], None]) -> None:
            self._stop = stop
            if self._stop_asked:
                stop()
            loop = asyncio.get_running_loop()

            def deliver(messages: list[Message]) -> None:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(hub.receive, messages)

            feeds.append(Feed(self._url, self._keys, clock, deliver, coverage))
            feeds[0].start()

        def ending() -> None:
            feeds[0].stop()
            hub.close()

        serve(gate, listener, started=started, ending=ending)
