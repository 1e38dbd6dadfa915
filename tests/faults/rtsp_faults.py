"""A camera that misbehaves on command: our own RTSP server, on loopback.

Serves H.264 or MPEG-4 access units as RTP, interleaved in TCP or over UDP. What it does wrong is
set from outside: ``answers`` for the handshake, ``script`` for what comes after PLAY. Knows
nothing of the worker.
"""

import base64
import contextlib
import hashlib
import random
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from fractions import Fraction

import av

from tests.clips import pictures
from tests.conftest import WALKWAY, free_port

SILENT = "silent"
CLOSE = "close"
RATE = 20
"""Frames a second."""
LARGEST_PAYLOAD_BYTES = 1200
NTP_OF_1970 = 2_208_988_800
METHODS = "OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER, TEARDOWN"


@dataclass(frozen=True)
class Clip:
    """Access units to send again and again, each a list of NAL units (or one MPEG-4 picture)."""

    codec: str
    units: tuple[tuple[bytes, ...], ...]
    fmtp: str

    @staticmethod
    def h264(size=(144, 192), frames=20, gop=10):
        """``size`` is (height, width)."""
        packets = _encode("libx264", size, frames, {"g": str(gop), "tune": "zerolatency"})
        units = tuple(tuple(_nal_units(packet)) for packet in packets)
        sets = Clip.h264_parameter_sets(units[0])
        return Clip("H264", units, f"packetization-mode=1;sprop-parameter-sets={sets}")

    @staticmethod
    def h264_parameter_sets(unit):
        """As SDP has them, from an access unit that begins with them."""
        sps, pps = (next(n for n in unit if n[0] & 31 == kind) for kind in (7, 8))
        return ",".join(base64.b64encode(nal).decode() for nal in (sps, pps))

    @staticmethod
    def mpeg4(size=(144, 192), frames=20):
        packets = _encode("mpeg4", size, frames, {"g": "10"})
        config = packets[0][: packets[0].index(b"\0\0\1\xb6")].hex()
        return Clip("MP4V-ES", tuple((p,) for p in packets), f"profile-level-id=1;config={config}")


def _encode(codec, size, frames, options):
    height, width = size
    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, RATE), Fraction(RATE)
    encoder.bit_rate, encoder.max_b_frames = 400_000, 0
    encoder.options = options | ({"preset": "ultrafast"} if codec == "libx264" else {})
    packets = []
    for index, picture in enumerate(pictures(WALKWAY, frames)):
        image = picture.reformat(width, height, "yuv420p")
        image.pts, image.time_base, image.pict_type = index, Fraction(1, RATE), 0
        packets += encoder.encode(image)
    packets += encoder.encode(None)
    return [bytes(packet) for packet in packets]


def _nal_units(packet):
    return [nal for nal in re.split(rb"\x00\x00\x00?\x01", packet) if nal]


def noise(clip, seed=0):
    """The units of a clip with their contents replaced: the headers are right, the rest is not."""
    dice = random.Random(seed)
    return Clip(
        clip.codec,
        tuple(tuple(nal[:1] + dice.randbytes(len(nal) - 1) for nal in u) for u in clip.units),
        clip.fmtp,
    )


@dataclass
class Camera:
    """Listens from the start; ``script(session)`` runs after PLAY, and its end hangs up."""

    clip: Clip
    script: object = None
    answers: dict = field(default_factory=dict)
    """Method (or "accept") to SILENT, CLOSE, or the number of a status."""
    password: str | None = None
    """Of the user "admin"; asked for by digest."""
    transports: tuple[str, ...] = ("tcp", "udp")
    audio: bool = False
    video: bool = True
    port: int = 0

    def __post_init__(self):
        self.script = self.script or (lambda session: session.send())
        self.visits = []
        """When each connection was accepted."""
        self.requests = []
        self.sessions = []
        self._listener = None
        self.port = self.port or free_port()
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def url(self):
        return f"rtsp://127.0.0.1:{self.port}/stream"

    def start(self):
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self):
        """As if the process had died: nothing listens, and every connection is reset."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.hang_up()

    def hang_up(self):
        """Close every connection, and keep listening."""
        for session in list(self.sessions):
            session.close()

    def unplug(self):
        """Leave every connection open and silent, and silently drop new ones.

        The existing connections are not closed, as when a camera loses power.
        """
        listener, self._listener = self._listener, None
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for session in list(self.sessions):
            session.frozen.set()
        return Swallower(self.port)

    def _accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.visits.append(time.monotonic())
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            session = Session(self, connection)
            self.sessions.append(session)
            threading.Thread(target=session.run, daemon=True).start()


class Swallower:
    """A listening socket whose queue is full: the kernel drops every further SYN."""

    def __init__(self, port=0):
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self._listener.listen(0)
        self._fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(filler)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def url(self):
        return f"rtsp://127.0.0.1:{self.port}/stream"

    def stop(self):
        for filler in self._fillers:
            filler.close()
        self._listener.close()


class Session:
    """One connection to the camera."""

    def __init__(self, camera, connection):
        self.camera = camera
        self.gone = threading.Event()
        """Either side has hung up."""
        self.frozen = threading.Event()
        """Nothing is sent or answered from now on."""
        self.frame = 0
        self.timestamp = 90_000
        self.ntp_offset_seconds = 0.0
        self.drop = lambda sequence: False
        """Decides which RTP packets to lose."""
        self._connection = connection
        self._lock = threading.Lock()
        self._sequence = 0
        self._udp = None
        self._nonce = "0123456789abcdef"

    def run(self):
        try:
            if self._obey("accept") and self._handshake():
                threading.Thread(target=self._listen, daemon=True).start()
                self.camera.script(self)
        except OSError:
            pass
        finally:
            self.close()

    def close(self):
        self.gone.set()
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
        if self._udp is not None:
            self._udp[0].close()
        with contextlib.suppress(ValueError):
            self.camera.sessions.remove(self)

    # What a script may do.

    def send(self, frames=None, clip=None, pause_seconds=1 / RATE, step=90_000 // RATE):
        """Send frames of a clip at an interval, endlessly by default, until the client hangs up."""
        clip = clip or self.camera.clip
        sent = 0
        due = time.monotonic()
        while (frames is None or sent < frames) and not self.gone.is_set():
            if self.frozen.is_set():
                return self.hold()
            self._send_unit(clip.codec, clip.units[self.frame % len(clip.units)])
            self.frame += 1
            self.timestamp += step
            sent += 1
            due += pause_seconds
            self.gone.wait(max(due - time.monotonic(), 0))
        return None

    def hold(self, seconds=None):
        """Send nothing until the client hangs up."""
        self.gone.wait(seconds)

    def send_unit(self, unit):
        """One access unit, with the present ``timestamp``."""
        self._send_unit(self.camera.clip.codec, unit)

    def send_report(self, packet):
        """An RTCP packet."""
        self._send(packet, control=True)

    def report(self):
        """An RTCP sender report: the NTP time of ``timestamp`` is now."""
        now = time.time() + NTP_OF_1970 + self.ntp_offset_seconds
        packet = struct.pack(
            ">BBHIIIIII", 0x80, 200, 6, 7, int(now), int(now % 1 * 2**32),
            self.timestamp & 0xFFFFFFFF, self._sequence, 0,
        )  # fmt: skip
        self._send(packet, control=True)

    # The protocol.

    def _handshake(self):
        while True:
            request = self._read_request()
            if request is None:
                return False
            method, headers = request
            self.camera.requests.append(method)
            if not self._obey(method, headers):
                return False
            if method == "PLAY":
                return True

    def _obey(self, method, headers=None):
        """Inject the fault set for the method; whether to continue."""
        answer = self.camera.answers.get(method, 200)
        if answer == SILENT:
            self._wait_for_the_end()
            return False
        if answer == CLOSE:
            return False
        if headers is None:
            return True
        if answer == 200 and self.camera.password is not None and method == "DESCRIBE":
            answer = 200 if self._authorized(headers) else 401
        self._answer(method, headers, answer)
        return answer in (200, 401, 461)

    def _wait_for_the_end(self):
        with contextlib.suppress(OSError):
            while self._connection.recv(4096):
                pass

    def _listen(self):
        """Answer keep-alives until the client hangs up."""
        with contextlib.suppress(OSError):
            while (request := self._read_request()) is not None:
                if request[0] == "TEARDOWN":
                    break
                if not self.frozen.is_set():
                    self._answer(*request, 200)
        self.gone.set()

    def _read_request(self):
        text = b""
        while b"\r\n\r\n" not in text:
            byte = self._connection.recv(1)
            if not byte:
                return None
            if byte == b"$" and not text:  # an RTCP report of the client
                _, length = struct.unpack(">BH", self._connection.recv(3, socket.MSG_WAITALL))
                self._connection.recv(length, socket.MSG_WAITALL)
                continue
            text += byte
        first, *lines = text.decode().strip().split("\r\n")
        headers = {k.strip().lower(): v.strip() for k, v in (line.split(":", 1) for line in lines)}
        return first.split()[0], headers

    def _answer(self, method, headers, status):
        lines = [f"RTSP/1.0 {status} X", f"CSeq: {headers.get('cseq', 0)}"]
        body = ""
        if status == 401:
            lines.append(f'WWW-Authenticate: Digest realm="cam", nonce="{self._nonce}"')
        elif method == "OPTIONS":
            lines.append(f"Public: {METHODS}")
        elif method == "DESCRIBE" and status == 200:
            body = self._sdp()
            lines += ["Content-Type: application/sdp", f"Content-Base: {self.camera.url}/"]
            lines.append(f"Content-Length: {len(body)}")
        elif method == "SETUP" and status == 200:
            transport = self._set_up(headers["transport"])
            if transport is None:
                lines[0] = "RTSP/1.0 461 Unsupported Transport"
            else:
                lines.append(f"Transport: {transport}")
        if method in ("SETUP", "PLAY"):
            lines.append("Session: 12345678;timeout=60")
        self._write("\r\n".join([*lines, "", body]).encode())

    def _set_up(self, wanted):
        if "tcp" in self.camera.transports and "TCP" in wanted:
            return wanted
        if "udp" in self.camera.transports and "TCP" not in wanted:
            ports = [int(p) for p in re.search(r"client_port=(\d+)-(\d+)", wanted).groups()]
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sender.bind(("127.0.0.1", 0))
            self._udp = sender, ports
            port = sender.getsockname()[1]
            return f"{wanted};server_port={port}-{port + 1}"
        return None

    def _sdp(self):
        lines = ["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=camera", "t=0 0", "a=control:*"]
        if self.camera.video:
            lines += [
                "m=video 0 RTP/AVP 96",
                f"a=rtpmap:96 {self.camera.clip.codec}/90000",
                f"a=fmtp:96 {self.camera.clip.fmtp}",
                "a=control:video",
            ]
        if self.camera.audio:
            lines += ["m=audio 0 RTP/AVP 0", "a=rtpmap:0 PCMU/8000", "a=control:audio"]
        return "\r\n".join([*lines, ""])

    def _authorized(self, headers):
        def md5(text):
            return hashlib.md5(text.encode()).hexdigest()

        fields = dict(re.findall(r'(\w+)="?([^",]*)"?', headers.get("authorization", "")))
        secret = md5(f"admin:cam:{self.camera.password}")
        wanted = md5(f"{secret}:{self._nonce}:{md5('DESCRIBE:' + fields.get('uri', ''))}")
        return fields.get("response") == wanted

    # RTP.

    def _send_unit(self, codec, nals):
        payloads = [p for nal in nals for p in (_h264 if codec == "H264" else _plain)(nal)]
        for index, payload in enumerate(payloads):
            marker = 0x80 if index == len(payloads) - 1 else 0
            header = struct.pack(
                ">BBHII", 0x80, marker | 96, self._sequence & 0xFFFF,
                self.timestamp & 0xFFFFFFFF, 7,
            )  # fmt: skip
            self._sequence += 1
            if not self.drop(self._sequence):
                self._send(header + payload)

    def _send(self, packet, *, control=False):
        if self._udp is not None:
            sender, ports = self._udp
            sender.sendto(packet, ("127.0.0.1", ports[control]))
        else:
            self._send_interleaved(packet, int(control))

    def _send_interleaved(self, packet, channel):
        self._write(struct.pack(">BBH", 0x24, channel, len(packet)) + packet)

    def _write(self, data):
        with self._lock:
            self._connection.sendall(data)


def _h264(nal):
    """A NAL unit as RTP payloads: itself, or fragments (FU-A, RFC 6184 5.8)."""
    if len(nal) <= LARGEST_PAYLOAD_BYTES:
        return [nal]
    indicator, kind = nal[0] & 0xE0 | 28, nal[0] & 31
    parts = _plain(nal[1:])
    last = len(parts) - 1
    return [
        bytes([indicator, kind | 0x80 * (i == 0) | 0x40 * (i == last)]) + part
        for i, part in enumerate(parts)
    ]


def _plain(picture):
    step = LARGEST_PAYLOAD_BYTES
    return [picture[i : i + step] for i in range(0, len(picture), step)]
