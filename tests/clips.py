"""Video files created on demand, with real pictures in them."""

import struct
from fractions import Fraction

import av


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


def audio_only(target):
    with av.open(str(target), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        for index in range(10):
            frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.sample_rate, frame.pts = 44100, index * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return target


def set_rotation(path, degrees):
    """Write a clockwise rotation into an MP4's track header, as phones do."""
    matrices = {
        90: (0, 1, -1, 0),
        180: (-1, 0, 0, -1),
        270: (0, -1, 1, 0),
    }
    a, b, c, d = (value << 16 for value in matrices[degrees])
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40
    content[matrix : matrix + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path
