"""Timing on a CUDA device: by events on the stream, eager or as a captured graph."""

from collections.abc import Callable
from typing import Any

import torch

WARM_UP_CALLS = 3
LEAST_MS = 10.0
"""Minimum work between two events, so that their own cost and resolution are negligible."""
MOST_CALLS = 200


def cuda_seconds(call: Callable[[], Any]) -> float:
    """Seconds per call on the stream, averaged over enough calls to take ``LEAST_MS``."""
    once_ms = _events_ms(call, 1)
    calls = min(MOST_CALLS, max(1, round(LEAST_MS / max(once_ms, 1e-3))))
    return (_events_ms(call, calls) if calls > 1 else once_ms) / calls / 1e3


def captured(call: Callable[[], Any]) -> Callable[[], None]:
    """The call as a CUDA graph; its inputs and outputs keep their memory."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_CALLS):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = call()

    def replay() -> None:
        graph.replay()

    replay.outputs = outputs  # type: ignore[attr-defined]  # the graph writes into their memory
    return replay


def _events_ms(call: Callable[[], Any], calls: int) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)
