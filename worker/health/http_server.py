"""A small HTTP server for probes and scrapes, which nobody can use to harm what it is about.

Takes handlers by path; answers GET and HEAD, one request per connection. At most MOST_CONNECTIONS
are open, each in a thread: one more closes the oldest, so that a thousand idle or slow clients keep
no probe waiting. Connections are accepted at a limited rate, so that no client can take a core from
the worker. Knows nothing of what it serves.
"""

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from worker.errors import UsageError

MOST_CONNECTIONS = 16
IDLE_SECONDS = 5.0
"""A client sends, or takes, something within this time."""
ACCEPT_SECONDS = 0.005
"""Per connection, on average: 200 a second take 10 to 16 % of a core (AMD EPYC)."""
ACCEPT_BURST = 50
"""Connections that may come at once, after a pause."""
LOOK_SECONDS = 0.25
"""Between the calls of ``look``, and how long closing may take."""
TEXT = "text/plain; charset=utf-8"


class Response(NamedTuple):
    """What a path answers."""

    status: int
    content_type: str
    body: bytes


Handler = Callable[[str], Response]
"""From the Accept header of a request to its answer."""


@contextmanager
def serving(
    address: tuple[str, int],
    handlers: Mapping[str, Handler],
    look: Callable[[], object] = lambda: None,
) -> Iterator[int]:
    """Serve at (host, port) in threads of its own; gives the port, which is chosen if it is 0.

    ``look`` is called four times a second, whether or not anybody asks. Raises UsageError if the
    address cannot be used.
    """
    host, port = address
    try:
        server = _Server(address, handlers, look)
    except OSError as error:
        raise UsageError(
            f"--http {f'[{host}]' if ':' in host else host}:{port}: cannot listen there "
            f"({error.strerror or error}): choose another port or address"
        ) from error
    thread = threading.Thread(
        target=server.serve_forever, args=(LOOK_SECONDS,), name="http", daemon=True
    )
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client that takes its time must not keep the worker
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        handlers: Mapping[str, Handler],
        look: Callable[[], object],
    ) -> None:
        self.handlers = handlers
        self._look = look
        self._slots = threading.Semaphore(MOST_CONNECTIONS)
        self._open: deque[socket.socket] = deque()
        self._accept_at = 0.0
        """When the next connection is accepted without a burst, by the monotonic clock."""
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _RequestHandler)

    def server_bind(self) -> None:
        """Without looking up this machine's name, as HTTPServer does: that may take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def service_actions(self) -> None:
        """Called by ``serve_forever`` at least every LOOK_SECONDS."""
        self._look()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, once there are few enough."""
        self._keep_to_rate()
        if not self._slots.acquire(blocking=False):
            self._close_oldest()
            if not self._slots.acquire(timeout=1):  # its thread is busy with an answer
                self.shutdown_request(request)
                return
        self._open.append(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection, in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with contextlib.suppress(ValueError):
                self._open.remove(request)
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients break off, or are closed: nothing to report."""

    def _keep_to_rate(self) -> None:
        now = time.monotonic()
        self._accept_at = max(self._accept_at, now - ACCEPT_BURST * ACCEPT_SECONDS) + ACCEPT_SECONDS
        time.sleep(max(self._accept_at - now, 0.0))

    def _close_oldest(self) -> None:
        with contextlib.suppress(IndexError, OSError):
            self._open.popleft().shutdown(socket.SHUT_RDWR)  # its thread wakes up


class _RequestHandler(BaseHTTPRequestHandler):
    server: _Server
    timeout = IDLE_SECONDS
    server_version = "ssd-worker"
    sys_version = ""

    def do_GET(self) -> None:
        handler = self.server.handlers.get(self.path.partition("?")[0])
        if handler is None:
            paths = ", ".join(self.server.handlers)
            self._answer(Response(404, TEXT, f"not here: there are {paths}\n".encode()))
            return
        try:
            response = handler(self.headers.get("Accept", ""))
        except Exception as error:  # a bug: the probe learns of it
            response = Response(500, TEXT, f"internal error: {type(error).__name__}\n".encode())
        self._answer(response)

    do_HEAD = do_GET

    def _answer(self, response: Response) -> None:
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a request is not worth a line."""
