"""A TCP proxy on loopback that can delay or lose replies, and lead to another server."""

import contextlib
import socket
import threading
import time


class TcpProxy:
    """Forwards connections to a port for the duration of a ``with`` block."""

    def __init__(self, target_port):
        self.delay_seconds = 0.0
        """Delay of each piece of a reply."""
        self.cut_replies_to = None
        """Bytes in a request whose reply is lost, once, and the connection with it."""
        self.abandon_request = None
        """Bytes in a request after which the client's connection is lost, once, while the server
        keeps its own and goes on with the request, as when a firewall forgets a connection."""
        self.when_abandoned = lambda: None
        """Called after such a loss."""
        self.cuts = 0
        self.target_port = target_port
        """Where connections lead from now on."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets = []

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        # shutdown() wakes the thread that waits in accept(); close() alone would not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            each.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target_port), 5)
            except OSError:
                return
            server.settimeout(None)
            self._sockets += [client, server]
            cut = threading.Event()
            for source, sink, is_request in ((client, server, True), (server, client, False)):
                threading.Thread(
                    target=self._pass_on, args=(source, sink, is_request, cut), daemon=True
                ).start()

    def _pass_on(self, source, sink, is_request, cut):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if is_request and self.cut_replies_to and self.cut_replies_to in data:
                    self.cut_replies_to = None
                    cut.set()
                elif is_request and self.abandon_request and self.abandon_request in data:
                    self.abandon_request = None
                    sink.sendall(data)
                    self.cuts += 1
                    source.shutdown(socket.SHUT_RDWR)
                    self.when_abandoned()
                    return
                elif not is_request and cut.is_set():
                    self.cuts += 1  # the server has executed it, and the client gets no reply
                    break
                elif not is_request and self.delay_seconds:
                    time.sleep(self.delay_seconds)
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
