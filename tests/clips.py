"""Video files created on demand, with real pictures in them."""

import struct
from fractions import Fraction

import av

SOUND_HZ = 44100


def pictures(source, frames):
    with av.open(str(source)) as container:
        for index, picture in enumerate(container.decode(video=0)):
            if index == frames:
                return
            yield picture


def cut(
    source, target, *, frames, codec="libx264", metadata=None, options=None, rate=10,
    size=(576, 768), container_options=None,
):  # fmt: skip
    """Re-encode the first frames of a video at ``rate`` frames per second."""
    height, width = size
    container_options = {"movflags": "+faststart"} | (container_options or {})
    with av.open(str(target), "w", container_options=container_options) as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream(codec, rate=rate, options=options or {"preset": "ultrafast"})
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for index, picture in enumerate(pictures(source, frames)):
            image = picture.reformat(width, height, stream.pix_fmt)
            image.pts, image.time_base = index, Fraction(1, rate)
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    return target


def silence(index):
    """A piece of sound, the next one after ``index`` others."""
    frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    frame.sample_rate, frame.pts = SOUND_HZ, index * 1024
    return frame


def audio_only(target):
    with av.open(str(target), "w") as container:
        stream = container.add_stream("aac", rate=SOUND_HZ)
        for index in range(10):
            container.mux(stream.encode(silence(index)))
        container.mux(stream.encode(None))
    return target


def set_rotation(path, degrees):
    """Write a clockwise rotation into an MP4's track header, as phones do."""
    return set_matrix(path, *{90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees])


def set_matrix(path, *abcd):
    """Write a display matrix into an MP4's track header: (x, y) goes to (a x + c y, b x + d y)."""
    a, b, c, d = (round(value * (1 << 16)) for value in abcd)
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40
    content[matrix : matrix + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def with_display_orientation(
    source, target, *, quarter_turns=0, hflip=False, vflip=False, key_frames=None
):
    """Copy H.264 or HEVC with a display orientation SEI at its key frames, or at the first ones.

    ITU-T H.264 D.1.27 and H.265 D.2.17: payload 47, turned counter-clockwise after the flips.
    """
    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        stream = reading.streams.video[0]
        hevc = stream.codec_context.name == "hevc"
        bits = f"0{hflip:d}{vflip:d}{quarter_turns << 14:016b}{'1' if hevc else '010'}01"
        bits += "0" * (-len(bits) % 8)
        payload = int(bits, 2).to_bytes(len(bits) // 8, "big")
        message = (b"\x4e\x01" if hevc else b"\x06") + bytes([47, len(payload)]) + payload
        message = message.replace(b"\0\0\0", b"\0\0\3\0") + b"\x80"
        copy = writing.add_stream_from_template(stream)
        for packet in reading.demux(stream):
            if packet.dts is None:
                continue
            if packet.is_keyframe and key_frames != 0:
                key_frames = key_frames and key_frames - 1
                packet = _with(message, packet, range(32, 44) if hevc else (5, 0x25, 0x45, 0x65))
            packet.stream = copy
            writing.mux(packet)
    return target


def _with(message, packet, slice_headers):
    """The packet with a message in front of its first slice (its header: the NAL unit's byte)."""
    content = bytes(packet)
    at = next(i for i in _nal_units(content) if content[i + 3] in slice_headers)
    new = av.Packet(content[:at] + b"\0\0\1" + message + content[at:])
    new.pts, new.dts, new.time_base = packet.pts, packet.dts, packet.time_base
    new.duration, new.is_keyframe = packet.duration, True
    return new


def _nal_units(content):
    """Where the start codes are."""
    at = content.find(b"\0\0\1")
    while at >= 0:
        yield at
        at = content.find(b"\0\0\1", at + 3)
