"""A camera as a worker publishes it: real events and snapshots, through the worker's own sink."""

import io
import time
from datetime import UTC, datetime, timedelta

from PIL import Image

from tests.events import camera_event, detections_event
from worker.events import Detection
from worker.snapshots import Snapshot, SnapshotInfo

NO_EVENT = 1_000_000
"""Frames from here on have none."""


def found(label, score=0.9, box=(0.25, 0.25, 0.5, 0.75)):
    return Detection(label=label, class_id=1, score=score, box=box)


class PublishedCamera:
    """One connection of a camera."""

    def __init__(self, sink, camera_id):
        self.sink, self.camera_id = sink, camera_id
        self.epoch, self.seq, self.pictures = time.time_ns() // 1_000_000, 0, 0

    def up(self):
        self.say("up", "connected")

    def down(self, reason="refused"):
        self.say("down", reason)

    def say(self, state, reason):
        self._publish(camera_event, state=state, reason=reason)

    def detect(self, *detections, ago=0.0):
        self._publish(detections_event, ago=ago, detections=detections)

    def detect_while(self, condition, *detections):
        """A predicate that publishes these again whenever it is asked, as a camera does."""

        def publishing():
            self.detect(*detections)
            return condition()

        return publishing

    def snapshot(self, *, ago=0.0, size=(320, 180), of_last_event=False):
        """A picture of a frame of its own, or of the one that the last event is of."""
        moment = datetime.now(UTC) - timedelta(seconds=ago)
        self.pictures += 1
        index = self.seq - 1 if of_last_event else NO_EVENT + self.pictures
        info = SnapshotInfo(
            camera_id=self.camera_id, epoch=self.epoch, frame_index=index, time=moment
        )
        file = io.BytesIO()
        Image.new("RGB", size, (40, 90, 120)).save(file, "JPEG", comment=info.to_json())
        self.sink.put_snapshots([(Snapshot(info, file.getvalue(), time.monotonic()), 60.0)])

    def _publish(self, make, *, ago=0.0, **about):
        event = make(self.camera_id, epoch=self.epoch, seq=self.seq, **about)
        moment = datetime.now(UTC) - timedelta(seconds=ago)
        self.sink.publish([event.model_copy(update={"time": moment})])
        self.seq += 1
