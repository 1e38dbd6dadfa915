"""Reads a camera's events back and counts what must not happen: what is lost, doubled, stale.

Knows the stream and its events only, not the worker.
"""

import json
from collections import Counter
from datetime import datetime
from typing import Any

STALE_SECONDS = 2.0
"""Age of a picture from which it must not be published without saying so (docs/events.md)."""


class Reader:
    """Reads the events of a camera and compares each with the previous one."""

    def __init__(self, client: Any, camera: str) -> None:
        self._client = client
        self._stream = f"ssd:{{{camera}}}:detections"
        self._last_entry = "-"
        self._last = (0, -1)
        self._accounted = 0
        """Frames of the epoch with an event of their own, or counted as dropped or skipped."""
        self._dropped = 0
        """Frames of the epoch that its events count as dropped."""
        self._state = "down"
        self.faults: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.events = 0
        self.frames = 0
        self.dropped = 0
        self.last_frame_at = 0.0
        self.latency_ms: list[float] = []
        self.latency_at: list[float] = []
        self.age_ms: list[float] = []
        """By pts, of the pictures of the epochs that have ended."""
        self._of_epoch: list[tuple[float, float, float, bool]] = []
        """(pts, ``time``, publishing, whether it was said to be late), in seconds."""
        self._said_late_at: list[float] = []

    def read(self) -> None:
        """Read the events since the last call."""
        while entries := self._client.xrange(self._stream, min=self._last_entry, count=1000):
            for entry_id, fields in entries:
                self._take(entry_id.decode(), json.loads(fields[b"event"]))
            self._last_entry = "(" + entries[-1][0].decode()

    def _take(self, entry_id: str, event: dict[str, Any]) -> None:
        data = event["data"]
        epoch, seq = data["epoch"], data["seq"]
        last_epoch, last_seq = self._last
        if (epoch, seq) == self._last:
            self.faults["duplicated"] += 1
        elif (epoch, seq) < self._last:
            self.faults["out of order"] += 1
        elif seq != (last_seq + 1 if epoch == last_epoch else 0):
            self.faults["lost"] += seq - (last_seq + 1 if epoch == last_epoch else 0)
        if epoch != last_epoch:
            self.faults["lost"] += self._state == "up"  # the last epoch lacks its `down`
            self._accounted = self._dropped = 0
            self.end_epoch()
        self._last = max(self._last, (epoch, seq))
        self.events += 1
        if event["type"] == "ssd.camera.v1":
            self.reasons[data["reason"]] += 1
            self._state = data["state"]
            if self._state == "degraded":
                self._said_late_at.append(datetime.fromisoformat(event["time"]).timestamp())
            if self._state == "down":
                # The event also counts frames that were not even decoded, because they were late.
                accounted = self._accounted + max(data["dropped"] - self._dropped, 0)
                self.faults["lost"] += max(data["frames"] - accounted, 0)
            return
        self._accounted += 1 + data["dropped"] + data["skipped"]
        self._dropped += data["dropped"]
        self.frames += 1
        self.dropped += data["dropped"]
        published = int(entry_id.partition("-")[0]) / 1000
        self.last_frame_at = published
        captured = datetime.fromisoformat(event["time"]).timestamp()
        self.latency_ms.append((published - captured) * 1000)
        self.latency_at.append(published)
        is_late = self._state == "degraded"
        self._of_epoch.append((data["pts_seconds"], captured, published, is_late))

    def end_epoch(self) -> None:
        """Judge the ages of the epoch's pictures, of which the fastest is known now."""
        fastest = min((published - pts for pts, _, published, _ in self._of_epoch), default=0.0)
        for pts, captured, published, is_late in self._of_epoch:
            age = published - pts - fastest
            self.age_ms.append(age * 1000)
            if max(age, published - captured) > STALE_SECONDS and not is_late:
                self.faults["stale"] += not any(
                    captured < at <= captured + STALE_SECONDS for at in self._said_late_at
                )
        self._of_epoch = []
