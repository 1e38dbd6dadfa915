"""Memory that the CUDA graphs of one stream share: they run in turn, so one pool serves them all.

A run outside a graph takes its memory here too: what a graph needs is then there before its capture
begins, and a large batch needs it once instead of twice. Failed captures are cleaned up.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor


class GraphMemory:
    """A pool of PyTorch's allocator; goes back to the device with this and the last of its graphs.

    Not for several threads at once: PyTorch has one capture in a process at a time.
    """

    def __init__(self, device: torch.device, stream: torch.cuda.Stream) -> None:
        """``stream``: on which the graphs run."""
        self._index = torch.empty(0, device=device).device.index
        self._stream = stream
        with torch.cuda.device(self._index):
            self._pool = torch.cuda.MemPool()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """What this thread allocates comes from here. Other memory that lies idle is given back."""
        torch.cuda.empty_cache()  # the pool cannot draw on it
        with _no_garbage_collection(), torch.cuda.use_mem_pool(self._pool, self._index):
            yield

    def capture(self, compute: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """A graph of what ``compute`` does, which did so before, and the output it will write to.

        Raises what PyTorch raises; memory is then as it was before, except that outputs of
        ``compute`` may be alive as long as the error is.
        """
        holders = self._pool.use_count()
        graph = torch.cuda.CUDAGraph()
        self._stream.synchronize()
        try:
            # Also where the capture fails and leaves its stream behind. Other threads may use the
            # device meanwhile, to decode frames for example.
            with (
                _no_garbage_collection(),
                torch.cuda.stream(self._stream),
                torch.cuda.graph(
                    graph,
                    pool=self._pool.id,  # type: ignore[arg-type]
                    stream=self._stream,
                    capture_error_mode="thread_local",
                ),
            ):
                output = compute()
        except BaseException:
            self._clear_up(graph, holders)
            raise
        return graph, output

    def _clear_up(self, graph: torch.cuda.CUDAGraph, holders: int) -> None:
        """After a capture that failed: ``holders`` held the pool before.

        PyTorch 2.11's allocator believes the capture under way for good (pytorch#180395): the next
        one with this pool is refused, and no memory that a second stream used is freed. Later ones
        still count the graph among the holders (pytorch#190348).
        """
        graph.reset()
        with suppress(RuntimeError):  # it is not under way: PyTorch has ended it
            torch._C._cuda_endAllocateToPool(self._index, self._pool.id)
        while self._pool.use_count() > holders:
            torch._C._cuda_releasePool(self._index, self._pool.id)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect nothing meanwhile: it may find the graphs and the pool of another detector.

    Their destructors call CUDA, and what they raise ends the process: one was aborted so, while a
    graph was made ready (torch 2.11).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
