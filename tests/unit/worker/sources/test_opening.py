"""What FFmpeg may open for a source, with real files and real servers on loopback."""

import itertools
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import SEEK_CUR, SEEK_END, SEEK_SET
from pathlib import Path

import av
import pytest
from av.error import ArgumentError

from tests.clips import cut
from tests.conftest import WALKWAY
from worker.errors import SourceError
from worker.frames import Frame, StreamDown
from worker.sources.limits import Limits, Meter, OverLimit
from worker.sources.live import LiveSource
from worker.sources.opening import (
    INVALID_SEEK,
    PROTOCOLS,
    FormatRefused,
    _as_ffmpeg_reads,
    _MeteredFile,
    _PartOfFile,
    camera_options,
    hardware_decoder,
    open_camera,
    open_recording,
    scheme_of,
)
from worker.sources.recording import RecordingSource, probe_recording
from worker.sources.ts_parts import Part

SIZE = (120, 160)


class HttpServer:
    """Serves ``pages`` by path, and records the requested paths."""

    def __init__(self):
        self.pages, self.asked = {}, []
        test = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                test.asked.append(self.path)
                page = test.pages.get(self.path)
                self.send_response(200 if page else 404)
                self.send_header("Content-Length", str(len(page or b"")))
                self.end_headers()
                self.wfile.write(page or b"")

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def url(self, path):
        return f"http://127.0.0.1:{self._server.server_port}{path}"

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def http_server():
    server = HttpServer()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def server():
    with http_server() as server:
        yield server


@pytest.fixture
def elsewhere():
    """A second host, as far as URLs are concerned."""
    with http_server() as server:
        yield server


@pytest.fixture(scope="module")
def segment(tmp_path_factory):
    return cut(WALKWAY, tmp_path_factory.mktemp("opening") / "segment.ts", frames=8)


def playlist(*urls):
    lines = "".join(f"#EXTINF:1.0,\n{url}\n" for url in urls)
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n{lines}#EXT-X-ENDLIST\n"


DASH = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"
 profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period><AdaptationSet mimeType="video/mp4">
<Representation id="1" bandwidth="1000"><BaseURL>{url}</BaseURL><SegmentList duration="1">
<SegmentURL media="{url}"/></SegmentList></Representation></AdaptationSet></Period></MPD>
"""
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"


def recordings_that_name_others(directory, secret, url):
    """Disguised playlists; each makes FFmpeg read the secret, or contact the server."""
    port = url.split(":")[2].split("/")[0]
    contents = {
        "hls.mp4": playlist(secret.name),
        "hls-file.m3u8": playlist(secret.name),
        "hls-absolute.m3u8": playlist(f"file://{secret}"),
        "hls-http.m3u8": playlist(url),
        "hls-concat.m3u8": playlist(f"concat:{secret}|{secret}"),
        "hls-key.m3u8": playlist(url).replace(
            "#EXTINF", f'#EXT-X-KEY:METHOD=AES-128,URI="{url}"\n#EXTINF', 1
        ),
        "concat.mp4": f"ffconcat version 1.0\nfile '{secret.name}'\n",
        "concat-http.ffconcat": f"ffconcat version 1.0\nfile '{url}'\n",
        "dash.mpd": DASH.format(url=url),
        "dash-file.mpd": DASH.format(url=f"file://{secret}"),
        "session.sdp": SDP.format(port=port),
    }
    for name, content in contents.items():
        (directory / name).write_text(content)
    (directory / "image-1.jpg").write_bytes(secret.read_bytes())
    return [directory / name for name in contents]


def frames_of(items):
    return [item for item in items if isinstance(item, Frame)]


def test_a_disguised_playlist_reads_no_other_file_and_contacts_no_host(tmp_path, server, segment):
    secret = tmp_path / "secret.ts"
    secret.write_bytes(segment.read_bytes())
    server.pages["/segment.ts"] = segment.read_bytes()
    for path in recordings_that_name_others(tmp_path, secret, server.url("/segment.ts")):
        with pytest.raises(SourceError, match=r"format that is not allowed|not a video") as caught:
            probe_recording(path, "clip")
        assert "\n" not in str(caught.value)
    assert server.asked == []


def test_ffmpeg_without_these_options_would_read_and_connect(tmp_path, server, segment):
    """Otherwise the test above could not fail."""
    secret = tmp_path / "secret.ts"
    secret.write_bytes(segment.read_bytes())
    server.pages["/segment.ts"] = segment.read_bytes()
    read = []
    for path in recordings_that_name_others(tmp_path, secret, server.url("/segment.ts")):
        try:
            with av.open(str(path), options={"protocol_whitelist": "file,http,tcp"}) as container:
                if next(container.decode(video=0)).width == 768:
                    read.append(path.name)
        except (av.error.FFmpegError, IndexError):
            continue
    assert {"hls-file.m3u8", "hls-http.m3u8", "concat.mp4"} <= set(read)
    assert server.asked


def test_a_name_with_a_pattern_or_a_protocol_in_it_is_a_name(tmp_path, segment):
    (tmp_path / "image-1.jpg").write_bytes(b"not looked at")
    for name in ("image-%d.ts", "http:x.ts", "concat:a|b.ts", "pipe:0"):
        path = tmp_path / name
        path.write_bytes(segment.read_bytes())
        assert len(frames_of(RecordingSource(probe_recording(path, "clip"), SIZE))) == 8


def test_a_file_played_live_opens_nothing_else_either(tmp_path, server, segment):
    path = tmp_path / "list.m3u8"
    path.write_text(playlist(server.url("/segment.ts")))
    source = LiveSource("gate", str(path), SIZE, itertools.count(1).__next__)
    down = next(iter(source))
    assert (down.state, down.reason) == ("down", "invalid_data")
    assert server.asked == []


def read_camera(url, **options):
    """Frames of one connection, and its StreamDown."""
    frames = []
    source = LiveSource("gate", url, SIZE, itertools.count(1).__next__, **options)
    for item in source:
        if isinstance(item, Frame):
            frames.append(item)
        if isinstance(item, StreamDown):
            return frames, item
    raise AssertionError("it never went down")


def test_an_http_camera_is_read(server, segment):
    server.pages["/camera"] = segment.read_bytes()
    frames, down = read_camera(server.url("/camera"))
    assert len(frames) == 8
    assert down.reason == "closed"


@pytest.mark.parametrize("scheme", ["HTTP", "Http"])
def test_a_scheme_may_be_in_capitals(server, segment, scheme):
    server.pages["/camera"] = segment.read_bytes()
    frames, down = read_camera(server.url("/camera").replace("http", scheme))
    assert len(frames) == 8
    assert down.reason == "closed"


def test_a_playlist_is_not_a_camera_unless_allowed(server, elsewhere, segment):
    elsewhere.pages["/segment.ts"] = segment.read_bytes()
    server.pages["/live.m3u8"] = playlist(elsewhere.url("/segment.ts")).encode()
    frames, down = read_camera(server.url("/live.m3u8"))
    assert (frames, down.reason) == ([], "invalid_data")
    assert elsewhere.asked == []
    frames, _ = read_camera(server.url("/live.m3u8"), allow_playlists=True)
    assert len(frames) == 8
    assert elsewhere.asked == ["/segment.ts"]


@pytest.mark.parametrize("allow_playlists", [False, True])
def test_a_playlist_of_a_camera_reads_no_file_of_ours(server, tmp_path, segment, allow_playlists):
    secret = tmp_path / "secret.ts"
    secret.write_bytes(segment.read_bytes())
    for name in (f"file://{secret}", f"file:{secret}", str(secret), f"concat:{secret}"):
        server.pages["/live.m3u8"] = playlist(name).encode()
        frames, _ = read_camera(server.url("/live.m3u8"), allow_playlists=allow_playlists)
        assert frames == []


@pytest.mark.parametrize("scheme", [*PROTOCOLS, "file", "concat", "subfile", "data", "HTTP"])
@pytest.mark.parametrize("allow_playlists", [False, True])
def test_no_url_lets_ffmpeg_open_files(scheme, allow_playlists):
    options = camera_options(f"{scheme}://x", Limits(), allow_playlists=allow_playlists)
    allowed = set(options["protocol_whitelist"].split(","))
    assert allowed
    assert not allowed & {"file", "concat", "concatf", "subfile", "data", "pipe", "fd", "async"}


CONTENT = bytes(range(100))


@pytest.fixture
def content(tmp_path):
    path = tmp_path / "x.ts"
    path.write_bytes(CONTENT)
    with path.open("rb", buffering=0) as file:
        yield file


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Part(20, 30, b"head"), b"head" + CONTENT[20:30]),
        (Part(20, None, b"head"), b"head" + CONTENT[20:]),
        (Part(0, 10), CONTENT[:10]),
    ],
)
def test_a_part_of_a_file_has_the_positions_of_a_file_of_its_own(content, part, expected):
    file = _PartOfFile(content, part)
    assert file.tell() == 0
    assert file.seek(len(expected) + 5) == len(expected) + 5
    assert file.read(9) == b""
    assert file.seek(0, SEEK_END) == file.tell() == len(expected)
    assert file.read(9) == b""
    assert file.seek(-3, SEEK_END) == len(expected) - 3
    assert file.read(9) == expected[-3:]
    assert file.seek(3) == 3
    assert file.seek(2, SEEK_CUR) == 5
    assert file.read(2) == expected[5:7]
    assert file.tell() == 7
    assert file.seek(0, SEEK_SET) == 0
    read = b"".join(iter(lambda: file.read(3), b""))
    assert read == expected
    for offset, whence in ((-1, SEEK_SET), (-len(expected) - 1, SEEK_END), (0, 9)):
        with pytest.raises(ValueError, match="cannot seek"):
            file.seek(offset, whence)
    assert file.tell() == len(expected)


def test_a_metered_file_counts_what_is_read_and_ends_at_the_limit(content):
    meter = Meter(Limits(max_bytes_without_frame=50))
    file = _MeteredFile(Path("x.ts"), content, meter)
    assert (file.name, file.read(50), file.tell()) == ("x.ts", CONTENT[:50], 50)
    assert (meter.exceeded, meter.at_end) == (False, False)
    assert file.read(10) == CONTENT[50:60]
    assert meter.exceeded
    assert file.read(10) == b""
    assert not meter.at_end


def test_a_metered_file_knows_its_end_also_after_a_seek_and_refuses_impossible_ones(content):
    meter = Meter(Limits())
    file = _MeteredFile(Path("x.ts"), content, meter)
    assert file.seek(100, SEEK_SET) == 100
    assert (file.read(1), meter.at_end) == (b"", True)
    assert file.seek(0, SEEK_SET) == 0
    assert (file.read(1), meter.at_end) == (CONTENT[:1], True)
    assert file.seek(-1, SEEK_SET) == INVALID_SEEK
    part = _MeteredFile(Path("x.ts"), _PartOfFile(content, Part(0, 10)), meter)
    assert part.seek(-1, SEEK_SET) == INVALID_SEEK


@pytest.mark.parametrize(
    ("error", "kept"),
    [(OSError(5, "Input/output error"), "Input/output error"), (OSError(), "OSError")],
)
def test_a_read_error_ends_a_metered_file_and_is_kept(error, kept):
    class Broken:
        def read(self, size):
            raise error

    meter = Meter(Limits())
    assert _MeteredFile(Path("x.ts"), Broken(), meter).read(1) == b""
    assert meter.read_error == kept


def test_a_scheme_is_what_is_before_the_slashes_in_lower_case():
    assert scheme_of("RTSP://HOST/Path") == "rtsp"
    assert _as_ffmpeg_reads("RTSP://HOST/Path") == "rtsp://HOST/Path"


def test_only_a_gpu_has_a_hardware_decoder():
    assert hardware_decoder(None) is None


def test_a_recording_over_the_limit_says_so_and_not_what_ffmpeg_makes_of_its_end(segment, tmp_path):
    path = cut(WALKWAY, tmp_path / "x.mp4", frames=8, container_options={"movflags": "0"})
    limits = Limits(max_bytes_without_frame=1000)
    with (
        pytest.raises(OverLimit, match="more than 1000 bytes without a frame"),
        open_recording(path, limits, Meter(limits)),
    ):
        pass


def test_ffmpegs_allocations_are_limited_before_it_opens_anything(segment, monkeypatch):
    limited = []
    monkeypatch.setattr(Limits, "limit_blocks", lambda limits: limited.append(limits))
    limits = Limits(max_pixels=10**6)
    with open_recording(segment, limits, Meter(limits)):
        assert limited == [limits]


@pytest.mark.parametrize("name", ["x.avi", "x.mp4"])
def test_streams_that_ffmpeg_refuses_are_too_many(tmp_path, name):
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=10) for _ in range(4)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for stream in streams:
            container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
            container.mux(stream.encode(None))
    limits = Limits(max_streams=2)
    with (
        pytest.raises(OverLimit, match="more than 2 streams"),
        open_recording(path, limits, Meter(limits)),
    ):
        pass
    allowed = Limits(max_streams=4)
    with open_recording(path, allowed, Meter(allowed)) as container:
        assert len(container.streams) == 4


def answering(content):
    """The URL of a TCP server that sends this and closes, once."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        with listener, listener.accept()[0] as connection:
            connection.sendall(content)

    threading.Thread(target=answer, daemon=True).start()
    return f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def test_a_refused_format_is_said_of_http_and_not_of_cameras_of_another_kind(server):
    content = b"ffconcat version 1.0\nfile 'x'\n"
    server.pages["/x"] = content
    for url, expected in ((server.url("/x"), FormatRefused), (answering(content), ArgumentError)):
        with (
            pytest.raises(expected),
            open_camera(url, {}, Limits(), timeout_seconds=(5, 5)),
        ):
            pass


def test_a_video_of_an_unknown_codec_can_be_opened_and_not_decoded(tmp_path):
    path = cut(WALKWAY, tmp_path / "x.avi", frames=2, codec="mpeg4", size=(48, 64), options={})
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"ZZZZ"))
    with open_recording(path, Limits(), Meter(Limits())) as container:
        (stream,) = container.streams.video
        assert stream.codec_context is None
    with pytest.raises(SourceError, match="has no video stream that can be decoded here"):
        probe_recording(path, "x")
