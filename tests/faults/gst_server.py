"""An RTSP camera by GStreamer; the system's Python runs it, with Debian's packages.

    /usr/bin/python3 gst_server.py PORT tcp|udp    # rtsp://127.0.0.1:PORT/stream, H.264, 10 fps

It sends RTCP reports, as cameras do.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

PIPELINE = (
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=10/1 "
    "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=20 "
    "! rtph264pay name=pay0 pt=96 )"
)


def main(port, transport):
    Gst.init(None)
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=port)
    factory = GstRtspServer.RTSPMediaFactory(launch=PIPELINE, shared=True)
    factory.set_protocols(getattr(GstRtsp.RTSPLowerTrans, transport.upper()))
    server.get_mount_points().add_factory("/stream", factory)
    server.attach(None)
    GLib.MainLoop().run()


main(*sys.argv[1:])
