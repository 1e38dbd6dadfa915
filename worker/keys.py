"""Names of the Redis keys. A camera's id is in braces, so all its keys share a cluster slot."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CameraKeys:
    """The keys of one camera."""

    stream: str
    producer: str
    status: str
    snapshot: str


@dataclass(frozen=True)
class Keys:
    """The keys under one prefix."""

    prefix: str = "ssd"

    @property
    def cameras(self) -> str:
        """Set of camera ids, for discovery."""
        return f"{self.prefix}:cameras"

    @property
    def replays(self) -> str:
        """Set of the ids of replays, for discovery."""
        return f"{self.prefix}:replays"

    def ids(self, *, replay: bool) -> str:
        """Set of the ids of live cameras, or of replays."""
        return self.replays if replay else self.cameras

    def camera(self, camera_id: str, *, replay: bool) -> CameraKeys:
        """A camera's live keys, or those of its replay."""
        base = f"{self.prefix}:{{{camera_id}}}"
        snapshot = f"{base}:snapshot"
        if replay:
            producer = f"{base}:replay:producer"
            return CameraKeys(f"{base}:replay", producer, producer, snapshot)
        return CameraKeys(f"{base}:detections", f"{base}:producer", f"{base}:status", snapshot)
