"""HTTP cameras on loopback that answer just as they are told to, byte for byte.

Takes answers as functions that write to a connection. Knows nothing of the worker.
"""

import contextlib
import io
import socket
import threading
import time

from tests.clips import pictures
from tests.conftest import WALKWAY

PAUSE_SECONDS = 0.05
"""Between the pictures of a stream."""


def still_images(count=20, kind="JPEG", size=(160, 120)):
    """Images of the sample clip, each of another picture."""
    images = []
    for picture in pictures(WALKWAY, count):
        content = io.BytesIO()
        picture.reformat(*size, "rgb24").to_image().save(content, kind)
        images.append(content.getvalue())
    return images


class Camera:
    """Answers each request with ``answer(connection, request)``, then hangs up."""

    def __init__(self, answer):
        self.answer = answer
        self.requests = []
        """The text of each request."""
        self._connections = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/video"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """As if the process had died."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with contextlib.suppress(OSError), connection:
            request = b""
            while b"\r\n\r\n" not in request:
                received = connection.recv(4096)
                if not received:
                    return
                request += received
            self.requests.append(request.decode())
            self.answer(connection, request.decode())


def head(content_type, *more, status="200 OK"):
    """The header of an answer; ``content_type``: None for none."""
    lines = [f"HTTP/1.1 {status}", *more]
    if content_type is not None:
        lines.append(f"Content-Type: {content_type}")
    return "\r\n".join([*lines, "", ""]).encode()


def stream(images, part, *, header=None, preamble=b"", chunked=False, count=None):
    """Sends ``part(image)`` for one image after another, ``count`` of them or endlessly."""
    header = head("multipart/x-mixed-replace; boundary=frame") if header is None else header
    if chunked:
        header = header.replace(b"\r\n", b"\r\nTransfer-Encoding: chunked\r\n", 1)

    def answer(connection, _request):
        def send(content):
            if chunked and content:
                content = b"%x\r\n%s\r\n" % (len(content), content)
            connection.sendall(content)

        connection.sendall(header)
        send(preamble)
        sent = 0
        while count is None or sent < count:
            send(part(images[sent % len(images)]))
            sent += 1
            time.sleep(PAUSE_SECONDS)

    return answer


def part(*lines, boundary=b"--frame", line_end=b"\r\n", length=0, blank=True, tail=None):
    """Writes a part of a multipart stream with these header lines before its image.

    ``length``: by how much the stated length is wrong; None: it is not stated; text: what it says.
    """

    def write(image):
        header = [*lines]
        if isinstance(length, bytes):
            header.append(b"Content-Length: " + length)
        elif length is not None:
            header.append(b"Content-Length: %d" % (len(image) + length))
        text = b"".join(line + line_end for line in ([boundary] if boundary else []) + header)
        return text + (line_end if blank else b"") + image + (line_end if tail is None else tail)

    return write


def snapshots(images, content_type="image/jpeg", *, with_length=True):
    """One image for each request, the next one each time."""
    numbers = iter(range(1 << 30))

    def answer(connection, _request):
        image = images[next(numbers) % len(images)]
        length = [f"Content-Length: {len(image)}"] if with_length else []
        connection.sendall(head(content_type, *length) + image)

    return answer
