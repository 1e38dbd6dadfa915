"""The HTTP server: a socket, an ASGI application and the feed; bounded whatever clients do.

A client that sends its request slowly, reads its answer slowly, or opens many connections is cut
off before it costs others anything. Ends within a second, also while viewers are connected.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from worker.dashboard.access import is_loopback
from worker.errors import UsageError

MAX_CONNECTIONS = 500
MAX_CONNECTIONS_OF_ADDRESS = 100
"""Loopback has no such limit: a proxy's connections all come from there."""
REQUEST_SECONDS = 10.0
"""For the head of a request, from the connection or the answer before it; at most twice that."""
READ_SECONDS = 30.0
"""For a client to take what was sent."""
KEEP_ALIVE_SECONDS = 20
END_SECONDS = 1
BUSY = b'{"error":"too many connections: close some pages and try again"}'
BUSY_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(BUSY), BUSY)
)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises UsageError if it cannot."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(
            f"--listen {host}: {error.strerror}: give an address of this machine"
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise UsageError(_why_not(host, port, error)) from error
    return listener


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--listen: port {port} is taken: choose another, such as --listen {host}:{port + 1}"
    if error.errno == errno.EACCES:
        return f"--listen: port {port} is for root: choose one from 1024 on"
    reason = os.strerror(error.errno or 0)
    return f"--listen {host}:{port}: {reason}: give an address of this machine"


def serve(
    app: ASGIApp,
    listener: socket.socket,
    *,
    started: Callable[[Callable[[], None]], None],
    ending: Callable[[], None],
) -> None:
    """Serve until stopped. ``started`` is called in the event loop, with a function to stop by that
    any thread or signal handler may call; ``ending`` before connections are waited for.
    """
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # no line per bad request
    server = _Server(
        uvicorn.Config(
            app,
            http=_Connection,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=END_SECONDS,
        ),
        ending,
    )

    def stop() -> None:
        server.should_exit = True

    async def run() -> None:
        started(stop)
        await server.serve([listener])

    asyncio.run(run())


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._ending = ending

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The command handles signals."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending()
        await super().shutdown(sockets)


class _Connection(H11Protocol):
    """Does not wait for a client that takes too long, and lets only so many in."""

    _timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _idle_at: object = None
    """The request after which the connection was idle when last looked at."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        if self._are_too_many(address):
            transport.write(BUSY_ANSWER)
            transport.close()
        else:
            self._timer = self.loop.call_later(REQUEST_SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()

    def _are_too_many(self, address: str) -> bool:
        of_address = [
            each
            for each in self.connections
            if isinstance(each, _Connection) and each.client and each.client[0] == address
        ]
        return len(self.connections) > MAX_CONNECTIONS or (
            len(of_address) > MAX_CONNECTIONS_OF_ADDRESS and not is_loopback(address)
        )

    def _look(self) -> None:
        """Cut off a client that has sent no whole request since the last look."""
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self._idle_at is self.cycle:
            self.transport.abort()
            return
        self._idle_at = self.cycle if is_idle else self
        self._timer = self.loop.call_later(REQUEST_SECONDS, self._look)
