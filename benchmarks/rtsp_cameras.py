"""Simulated cameras: an RTSP server over TCP that plays each file of a directory at its own speed.

    python benchmarks/rtsp_cameras.py DIRECTORY PORT

It is the server of aio-rtsp-toolkit, as in the tests, with one change: it would spread the packets
of a frame over the whole time until the next one (40 ms at 25 frames/s), and now sends them at
once, as cameras do. Otherwise every latency would hold 40 ms that are the simulator's. Its RTCP
reports tell when a frame was sent, which is what the worker takes for the capture time.

The server reads the file for each camera on a thread of asyncio's pool, for as long as it is
connected. Of asyncio's own size, cores + 4, the pool would leave later cameras without a picture.
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
