"""Reading without a group: each reader has a position of its own, and gets every entry once."""

import logging
import time
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from worker.consuming.entries import Entry, parse_id
from worker.consuming.reading import Stream, StreamReader, says_missing

log = logging.getLogger(__name__)

CHECK_SECONDS = 15.0
"""How often to look whether a stream is still the one that was read."""


class PlainReader(StreamReader):
    """The entries of streams from their positions on."""

    _next_check = 0.0

    def read(self, block_seconds: float) -> list[Entry]:
        """The next entries; none if none arrive within ``block_seconds``."""
        if time.monotonic() >= self._next_check:
            for stream in self._active():
                self._check(stream)
            self._next_check = time.monotonic() + CHECK_SECONDS
        return self._read_new(block_seconds)

    def passed(self, entry: Entry, *, to_user: bool) -> None:
        """Advance here and not when reading: an entry not yet passed must be read again."""
        stream = self.streams[entry.stream]
        stream.position, stream.was_read = entry.entry_id.decode(), True

    def settle(self, skipped: Sequence[Entry]) -> None:
        """Nothing: positions advance with the entries around them."""

    def restart(self) -> None:
        """Nothing: reading begins after the last entry that was passed."""

    def lost_reply(self) -> None:
        """Nothing: reading does not change anything in Redis."""

    def recovered(self) -> None:
        """Check soon: this may be another server, or one without its data."""
        self._next_check = 0.0

    def _start(self, stream: Stream) -> None:
        last = self._client.xrevrange(stream.name, count=1)
        if stream.position == "$":  # with $ itself, entries between two reads would be missed
            stream.position = last[0][0].decode() if last else "0"

    def _call(self, positions: dict[str, Any], block_ms: int | None, count: int) -> Any:
        return self._client.xread(positions, count=count, block=block_ms)

    def _next_of(self, stream: Stream) -> str:
        return stream.position

    def _group_is_gone(self, stream: Stream) -> None:
        """Never happens without a group."""

    def _check(self, stream: Stream) -> None:
        """Start again in a stream whose entries have ids below those that were read.

        Ids are the server's time: that of another server, or one whose clock was set back, may be
        earlier, and its entries would never be seen.
        """
        if not stream.was_read:
            return
        try:
            last = self._client.xinfo_stream(stream.name)["last-generated-id"]
        except ResponseError as error:
            if not says_missing(error):
                self._deal_with(stream, error)
                return
            last = b"0-0"
        if parse_id(last) < parse_id(stream.position):
            log.warning(
                "camera %s: %s was deleted or replaced: reading it from its start",
                stream.camera_id,
                stream.name,
            )
            stream.position = "0"
