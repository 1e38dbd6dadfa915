"""Planes of video pictures on their way to the device: through pinned memory, beside the compute.

Pictures that lie on the device already stay where they are. Knows addresses, not colours.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssd_core.yuv import Plane, YuvImage


class PlaneUpload:
    """Room for the planes of one batch, on the host and on the device; grows and is used again."""

    def __init__(self, device: torch.device) -> None:
        on_cuda = device.type == "cuda"
        # "cuda" alone has no index, and would equal no tensor's device.
        self._device = torch.empty(0, device=device).device
        self._stream = torch.cuda.Stream(device) if on_cuda else None
        self._uploaded = torch.cuda.Event() if on_cuda else None
        self._staged = self._planes = torch.empty(0, dtype=torch.uint8)
        self._used = 0
        self._count = 0
        self._tables: tuple[Tensor, Tensor] | None = None

    def start(self, images: Sequence[YuvImage | None]) -> None:
        """Begin to move a batch up; None stands for an image that needs no planes.

        The batch before must be done with: its planes are written over. Planes that lie on the
        device must stay until this batch is done with.
        """
        self._count = len(images)
        self._tables = None
        pictures = [image for image in images if image is not None]
        if not pictures:
            return
        from ssd_core.ops.yuv_to_input import describe_images

        addresses = self._stage(pictures)
        if self._stream is not None and self._uploaded is not None:
            with torch.cuda.stream(self._stream):
                self._planes[: self._used].copy_(self._staged[: self._used], non_blocking=True)
                self._uploaded.record(self._stream)
        described = describe_images(pictures, addresses)
        rows = [index for index, image in enumerate(images) if image is not None]
        tables = []
        for table in described:
            whole = table.new_zeros(len(images), table.shape[1])
            whole[rows] = table
            tables.append(whole.pin_memory() if self._stream is not None else whole)
        self._tables = tables[0], tables[1]

    def fill(self, tables: Any) -> None:
        """On the current stream: wait for the planes, and describe them in a program's tables.

        ``tables`` (ImageTables, on the device) may have more rows than the batch has images.
        """
        if tables is None:
            return
        if self._uploaded is not None and self._tables is not None:
            torch.cuda.current_stream(self._device).wait_event(self._uploaded)
        for index, table in enumerate(tables):
            table.zero_()
            if self._tables is not None:
                table[: self._count].copy_(self._tables[index], non_blocking=True)

    def _stage(self, pictures: Sequence[YuvImage]) -> list[Any]:
        """Copy the host's planes into pinned memory; where all planes will be on the device."""
        from ssd_core.ops.yuv_to_input import PlaneAddresses, plane_addresses

        on_host = [plane for image in pictures for plane in _host_planes(image, self._device)]
        self._used = sum(plane.numel() for plane in on_host)
        self._make_room(self._used)
        addresses = []
        start = 0
        for image in pictures:
            planes = _host_planes(image, self._device)
            if not planes:
                addresses.append(plane_addresses(image))
                continue
            found = []
            for plane in planes:
                room = self._staged[start : start + plane.numel()]
                room.view(plane.shape).copy_(plane)
                found.append(self._planes.data_ptr() + start)
                start += plane.numel()
            row_bytes = planes[0].shape[1], planes[1].shape[1]
            addresses.append(PlaneAddresses(found[0], found[1], found[2], *row_bytes, 1))
        return addresses

    def _make_room(self, size_bytes: int) -> None:
        if size_bytes <= len(self._staged):
            return
        pinned = self._stream is not None
        staged = planes = torch.empty(size_bytes, dtype=torch.uint8, pin_memory=pinned)
        if self._stream is not None:
            # In the stream that writes it: memory of another may have work pending on it still.
            with torch.cuda.stream(self._stream):
                planes = torch.empty(size_bytes, dtype=torch.uint8, device=self._device)
        self._staged, self._planes = staged, planes  # both, or neither where memory is short


def _host_planes(image: YuvImage, device: torch.device) -> list[Tensor]:
    """The planes as tensors, if they have to be moved."""
    if isinstance(image.y, Tensor) and image.y.device == device and device.type == "cuda":
        return []
    return [_as_tensor(plane) for plane in (image.y, image.u, image.v)]


def _as_tensor(plane: Plane) -> Tensor:
    return plane if isinstance(plane, Tensor) else torch.from_numpy(plane)
