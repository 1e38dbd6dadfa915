"""HLS playlists over HTTP on loopback: whole ones, and live ones that grow while they are read.

Knows nothing of the worker.
"""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.clips import cut
from tests.conftest import WALKWAY

SEGMENT_SECONDS = 1
RATE = 20


def segments(directory, count, *, size=(144, 192)):
    """The contents of MPEG-TS segments of a second each, one video with 20 pictures a second."""
    playlist = directory / "cut.m3u8"
    options = {"hls_time": "1", "hls_list_size": "0", "hls_segment_type": "mpegts"}
    cut(
        WALKWAY, playlist, frames=count * RATE, rate=RATE, size=size,
        options={"g": str(RATE), "preset": "ultrafast"}, container_options=options,
    )  # fmt: skip
    found = [(directory / f"cut{number}.ts").read_bytes() for number in range(count)]
    assert not (directory / f"cut{count}.ts").exists()
    return found


class PlaylistServer:
    """Serves ``/live.m3u8`` and its segments."""

    def __init__(self, contents, *, begins_with=None, window=6, discontinuities=()):
        """``begins_with``: so many segments are listed at the first request, and one more each
        second; None: all are, and the playlist is complete. At most ``window`` are listed then.
        ``discontinuities``: numbers of segments that are another recording than the one before.
        """
        self._contents = contents
        self._begins_with = begins_with
        self._window = window
        self._discontinuities = discontinuities
        self._asked_at = None
        self.requested = []
        test = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                content = test._answer(self.path)
                self.send_response(200 if content else 404)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None  # a worker that hangs up
        self._server.daemon_threads = True
        self._server.block_on_close = False  # FFmpeg keeps connections open
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_port}/live.m3u8"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, path):
        self.requested.append(path)
        if path == "/live.m3u8":
            return self._playlist().encode()
        return self._contents[int(path.removeprefix("/").removesuffix(".ts"))]

    def _playlist(self):
        self._asked_at = self._asked_at or time.monotonic()
        listed, first, end = len(self._contents), 0, "#EXT-X-ENDLIST\n"
        if self._begins_with is not None:
            grown = self._begins_with + int(time.monotonic() - self._asked_at)
            end = end if grown > listed else ""
            listed = min(grown, listed)
            first = max(listed - self._window, 0)
        lines = "".join(
            ("#EXT-X-DISCONTINUITY\n" if number in self._discontinuities else "")
            + f"#EXTINF:{SEGMENT_SECONDS}.0,\n{number}.ts\n"
            for number in range(first, listed)
        )
        return (
            f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:{SEGMENT_SECONDS}\n"
            f"#EXT-X-MEDIA-SEQUENCE:{first}\n{lines}{end}"
        )
