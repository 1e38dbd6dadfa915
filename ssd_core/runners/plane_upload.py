"""Images on their way to the device: one copy from pinned memory, while batches compute.

Goes in: video pictures, and RGB images of the network's size, wherever they lie. Comes out: the
network's input, by the kernels of ``ops``. Images that lie on the device already stay where they
are. Knows no network.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssd_core.preprocess import Image
from ssd_core.yuv import Plane, YuvImage

Bytes: TypeAlias = npt.NDArray[np.uint8]

ALIGNMENT_BYTES = 16
"""Of what kernels read: they are compiled again for pointers to other places."""
COPIERS = 4
ALONE_BYTES = 4 << 20
"""Copies of this size and more are shared out among COPIERS threads. 64 images of 300x300, 17 MB,
take one core of an AMD EPYC 1.4 ms, about half of what a fast GPU takes to look at them."""


class Upload:
    """Room for the images of one batch, on the host and on the device; grows and is used again."""

    def __init__(self, device: torch.device) -> None:
        on_cuda = device.type == "cuda"
        # "cuda" alone has no index, and would equal no tensor's device.
        self._device = torch.empty(0, device=device).device
        self._stream = torch.cuda.Stream(device) if on_cuda else None
        self._uploaded = torch.cuda.Event() if on_cuda else None
        self._staged = self._there = torch.empty(0, dtype=torch.uint8, device="cpu")
        self._yuv: Any = None
        self._rgb: Tensor | None = None

    def start(self, images: Sequence[YuvImage | Image | None]) -> None:
        """Begin to move a batch up; None stands for an image that comes another way.

        RGB images are (S_h, S_w, 3) uint8, on the device without gaps and at a multiple of 16. The
        batch before must be done with: it is written over. Images that lie on the device must stay
        until this batch is done with.
        """
        self._yuv = self._rgb = None
        pictures: dict[int, YuvImage] = {}
        ready: dict[int, Image] = {}
        for row, image in enumerate(images):
            if isinstance(image, YuvImage):
                pictures[row] = image
            elif image is not None:
                ready[row] = image
        room = _Room()
        kinds = _yuv_tables() if pictures else []
        descriptions = [room.table(len(images), *kind) for kind in kinds]
        addresses = [room.table(len(images), 1, torch.int64)] if ready else []
        planes = {row: self._place_planes(picture, room) for row, picture in pictures.items()}
        pixels = {row: self._place_pixels(image, room) for row, image in ready.items()}
        if not room.size_bytes:
            return
        self._make_room(room.size_bytes)
        if pictures:
            self._describe(pictures, planes, [place.of(self._staged) for place in descriptions])
            self._yuv = _as_tables(place.of(self._there) for place in descriptions)
        if ready:
            table = addresses[0].of(self._staged).zero_().numpy()
            base = self._there.data_ptr()
            table[list(pixels), 0] = [
                base + place if isinstance(place, int) else place.data_ptr()
                for place in pixels.values()
            ]
            self._rgb = addresses[0].of(self._there).view(-1)
        copy_all(self._staged.numpy(), room.contents)
        if self._stream is not None and self._uploaded is not None:
            with torch.cuda.stream(self._stream):
                sent = slice(room.size_bytes)
                self._there[sent].copy_(self._staged[sent], non_blocking=True)
                self._uploaded.record(self._stream)

    def convert_into(
        self,
        x: Tensor,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        antialias: bool = True,
    ) -> None:
        """On the current stream: wait for the batch, and make it ``x``, (B, 3, S_h, S_w).

        What lies in ``x`` for a None stays as it is.
        """
        if self._yuv is None and self._rgb is None:
            return
        if self._uploaded is not None:
            torch.cuda.current_stream(self._device).wait_event(self._uploaded)
        # Imported on use: Triton is not available on every machine.
        from ssd_core.ops.rgb_to_input import rgb_to_input
        from ssd_core.ops.yuv_to_input import yuv_to_input

        if self._yuv is not None:
            yuv_to_input(self._yuv, x, mean, std, antialias)
        if self._rgb is not None:
            rgb_to_input(self._rgb, x, mean, std)

    def _place_planes(self, picture: YuvImage, room: "_Room") -> list["_Place"]:
        """Where a picture's planes will lie, chroma as one where it is interleaved.

        Nowhere, if they are on the device.
        """
        if self._is_there(picture.y):
            return []
        y, u, v = (_as_array(plane) for plane in (picture.y, picture.u, picture.v))
        if u.strides[1] == 2 and v.ctypes.data - u.ctypes.data == 1:
            rows, columns = u.shape
            both = np.lib.stride_tricks.as_strided(u, (rows, 2 * columns), (u.strides[0], 1))
            return [room.put(y), room.put(both)]
        return [room.put(y), room.put(u), room.put(v)]

    def _place_pixels(self, image: Image, room: "_Room") -> int | Tensor:
        """The offset at which an image will lie, or the image that is on the device."""
        if isinstance(image, Tensor) and self._is_there(image):
            return image
        return room.put(_as_array(image)).offset

    def _describe(
        self,
        pictures: dict[int, YuvImage],
        planes: dict[int, list["_Place"]],
        tables: Sequence[Tensor],
    ) -> None:
        """Write what ``yuv_to_input`` reads; rows of zeros for other images."""
        from ssd_core.ops.yuv_to_input import PlaneAddresses, describe_images, plane_addresses

        base = self._there.data_ptr()
        addresses = []
        for row, picture in pictures.items():
            if not planes[row]:
                addresses.append(plane_addresses(picture))
                continue
            y, u, *rest = planes[row]
            v_offset = rest[0].offset if rest else u.offset + 1
            where = (base + y.offset, base + u.offset, base + v_offset)
            step = 1 if rest else 2
            addresses.append(PlaneAddresses(*where, y.shape[1], u.shape[1], step))
        described = describe_images(list(pictures.values()), addresses)
        for table, rows in zip(tables, described, strict=True):
            table.zero_().numpy()[list(pictures)] = rows.numpy()

    def _make_room(self, size_bytes: int) -> None:
        if size_bytes <= len(self._staged):
            return
        pinned = self._stream is not None
        staged = there = torch.empty(size_bytes, dtype=torch.uint8, device="cpu", pin_memory=pinned)
        if self._stream is not None:
            # In the stream that writes it: memory of another may have work pending on it still.
            with torch.cuda.stream(self._stream):
                there = torch.empty(size_bytes, dtype=torch.uint8, device=self._device)
        self._staged, self._there = staged, there  # both, or neither where memory is short

    def _is_there(self, plane: Plane | Image) -> bool:
        on_cuda = isinstance(plane, Tensor) and plane.device.type == "cuda"
        return on_cuda and plane.device == self._device


@dataclass(frozen=True, slots=True)
class _Place:
    """Where something lies in a batch's memory."""

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.uint8

    def of(self, memory: Tensor) -> Tensor:
        """What lies there in ``memory``, bytes on the host or on the device."""
        size_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        return memory[self.offset : self.offset + size_bytes].view(self.dtype).view(self.shape)


class _Room:
    """How a batch will lie in memory, on the host and on the device alike."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self.contents: list[tuple[int, Bytes]] = []
        """Offsets of arrays that are to be copied."""

    def table(self, rows: int, columns: int, dtype: torch.dtype) -> _Place:
        """Room for a table."""
        return _Place(self._take(rows * columns * dtype.itemsize), (rows, columns), dtype)

    def put(self, array: Bytes) -> _Place:
        """Room for an array, without the gaps between its rows."""
        place = _Place(self._take(array.size), array.shape)
        self.contents.append((place.offset, array))
        return place

    def _take(self, size_bytes: int) -> int:
        offset = self.size_bytes
        self.size_bytes += -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        return offset


def copy_all(into: Bytes, contents: Sequence[tuple[int, Bytes]], copiers: int = COPIERS) -> None:
    """Copy arrays to offsets of ``into``, by several threads if they are large."""
    if sum(array.size for _, array in contents) < ALONE_BYTES:
        copiers = 1
    shares = [contents[first::copiers] for first in range(copiers)]
    others = [_copiers().submit(_copy, into, share) for share in shares[1:]]
    try:
        _copy(into, shares[0])
    finally:
        wait(others)  # the next writer must find the memory unused
    for other in others:
        other.result()


def _copy(into: Bytes, contents: Sequence[tuple[int, Bytes]]) -> None:
    for offset, array in contents:  # NumPy releases the GIL for each
        into[offset : offset + array.size].reshape(array.shape)[:] = array


@cache
def _copiers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(COPIERS - 1, "upload")


def _yuv_tables() -> list[tuple[int, torch.dtype]]:
    """Columns and type of the tables that ``yuv_to_input`` reads."""
    from ssd_core.ops.yuv_to_input import COEFFICIENT_TABLE_COLUMNS, IMAGE_TABLE_COLUMNS

    return [(len(IMAGE_TABLE_COLUMNS), torch.int64), (COEFFICIENT_TABLE_COLUMNS, torch.float32)]


def _as_tables(tables: Any) -> Any:
    from ssd_core.ops.yuv_to_input import ImageTables

    return ImageTables(*tables)


def _as_array(plane: Plane | Image) -> Bytes:
    return plane.cpu().numpy() if isinstance(plane, Tensor) else plane
