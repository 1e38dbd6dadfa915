"""Simulated cameras: an RTSP server over TCP that plays the files of a directory in real time.

    python benchmarks/rtsp_cameras.py DIRECTORY PORT

It is the server of aio-rtsp-toolkit, as in the tests, with one change: by default it spreads the
packets of a frame over the whole time until the next one (40 ms at 25 frames/s); here it sends them
at once, as cameras do. Otherwise every latency would include 40 ms caused by the simulator. Its
RTCP reports contain the send times of frames, which the worker takes as their capture times.

The server reads the file for each camera on a thread of asyncio's pool, for as long as the camera
is connected. With asyncio's default of cores + 4 threads, later cameras would get no pictures.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aio_rtsp_toolkit.server import serve
from aio_rtsp_toolkit.server_session import RtspServerSession
from processes import free_port

MOST_CAMERAS = 64

_send_spread = RtspServerSession._send_paced_rtp_payloads


async def _send_at_once(
    self: RtspServerSession,
    state: Any,
    payloads: list[tuple[bytes, int]],
    timestamp: int,
    media_time: float,
    duration_seconds: float,
) -> None:
    await _send_spread(self, state, payloads, timestamp, media_time, 0.0)


def main() -> None:
    """Serve until killed."""
    directory, port = sys.argv[1], int(sys.argv[2])
    RtspServerSession._send_paced_rtp_payloads = _send_at_once
    asyncio.run(_serve(directory, port))


async def _serve(directory: str, port: int) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(MOST_CAMERAS))
    await serve(directory, "127.0.0.1", port, control_port=free_port())


if __name__ == "__main__":
    main()
