"""The newest picture of each camera: fetched from Redis once, however many viewers want it.

Takes camera ids; gives JPEGs with what they show. Serves no picture that Redis does not hold any
more: its expiry is what keeps an old picture from being taken for a new one.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from worker.dashboard.commands import replies_of
from worker.dashboard.hub import Hub
from worker.dashboard.queries import Queries
from worker.dashboard.times import iso
from worker.keys import Keys
from worker.servers.address import RedisClient
from worker.snapshots import SnapshotInfo, read_snapshot

MAX_BYTES = 4_000_000
"""Of one picture: a larger one is not a snapshot of this project."""


@dataclass(frozen=True)
class Picture:
    """A JPEG and what it shows."""

    info: SnapshotInfo
    jpeg: bytes
    version: int
    """Rises with each picture of any camera."""

    @property
    def captured_at(self) -> str:
        """When, for people and programs."""
        return iso(self.info.time.timestamp()) or ""

    @property
    def is_of(self) -> tuple[int, int]:
        """Epoch and index of the frame."""
        return self.info.epoch, self.info.frame_index

    @cached_property
    def packed(self) -> bytes:
        """With a header in front: its length in four bytes, and JSON."""
        header = json.dumps(
            {
                "id": self.info.camera_id,
                "time": self.captured_at,
                "epoch": self.info.epoch,
                "frame_index": self.info.frame_index,
                "blurred": self.info.blurred,
                "bytes": len(self.jpeg),
            }
        ).encode()
        return len(header).to_bytes(4, "big") + header + self.jpeg


class Pictures:
    """What is fetched, until it is too old."""

    def __init__(self, hub: Hub, queries: Queries, keys: Keys) -> None:
        self._hub = hub
        self._queries = queries
        self._keys = keys
        self._pictures: dict[str, Picture] = {}
        # Above those of an earlier server, whose last one a page may still hold.
        self._version = round(time.time() * 1000)
        self._lock = asyncio.Lock()

    async def of(self, camera_id: str) -> Picture | None:
        """The newest picture of a camera; None if there is none. Raises SinkError."""
        await self._refresh([camera_id])
        return self._pictures.get(camera_id)

    async def after(self, camera_ids: Sequence[str], version: int) -> tuple[int, list[Picture]]:
        """The pictures of these that came after a version, and the version now."""
        await self._refresh(camera_ids)
        if version > self._version:
            version = 0
        found = [self._pictures[name] for name in camera_ids if name in self._pictures]
        return self._version, [picture for picture in found if picture.version > version]

    async def _refresh(self, camera_ids: Sequence[str]) -> None:
        async with self._lock:
            self._forget_old()
            wanted = [name for name in camera_ids if self._is_behind(name)]
            if not wanted:
                return
            replies = await self._queries.run(lambda client: self._fetch(client, wanted))
            for camera_id, reply in zip(wanted, replies, strict=True):
                self._keep(camera_id, reply)

    def _fetch(self, client: RedisClient, camera_ids: Sequence[str]) -> list[Any]:
        pipeline = client.pipeline(transaction=False)
        for camera_id in camera_ids:
            pipeline.get(self._keys.camera(camera_id, replay=False).snapshot)
        return replies_of(pipeline)

    def _keep(self, camera_id: str, reply: Any) -> None:
        self._pictures.pop(camera_id, None)
        if not isinstance(reply, bytes) or len(reply) > MAX_BYTES:
            return
        try:
            info, jpeg = read_snapshot(reply)
        except ValueError:
            return
        if info.camera_id == camera_id:
            self._version += 1
            self._pictures[camera_id] = Picture(info, jpeg, self._version)

    def _is_behind(self, camera_id: str) -> bool:
        newest, held = self._newest(camera_id), self._pictures.get(camera_id)
        return newest is not None and (held is None or held.is_of < newest)

    def _newest(self, camera_id: str) -> tuple[int, int] | None:
        """Which frame the picture in Redis is of, as the feed has seen it."""
        camera = self._hub.camera(camera_id)
        about = camera and camera["snapshot"]
        return (about["epoch"], about["frame_index"]) if about else None

    def _forget_old(self) -> None:
        for camera_id in [name for name in self._pictures if self._newest(name) is None]:
            del self._pictures[camera_id]
