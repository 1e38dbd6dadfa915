"""Which frames to analyse: every Nth, or at most N per second. The others are skipped by choice."""

TOLERANCE_SECONDS = 0.0005
"""Timestamps at 30 fps are rounded to ticks."""


class Sampler:
    """Decides frame by frame; two runs over the same frames make the same decisions."""

    def __init__(self, *, stride: int = 1, fps: float | None = None) -> None:
        """Accept every ``stride``-th frame, and on average at most ``fps`` per second of video."""
        self._stride = stride
        self.interval_seconds = 1 / fps if fps else 0.0
        """Between accepted frames, on average; 0 if all are accepted."""
        self.due_seconds: float | None = None
        """From when on a frame is accepted; None if the first one is to come."""
        self._last_seconds: float | None = None
        self.skipped = 0
        """Frames skipped since the last accepted one."""

    def accepts(
        self, frame_index: int, pts_seconds: float | None, *, key_frame: bool = False
    ) -> bool:
        """Whether to analyse a frame; counts it in ``skipped`` if not.

        ``key_frame``: it can be had without decoding others, and may be half an interval early.
        """
        wanted = frame_index % self._stride == 0
        if wanted and self.interval_seconds and pts_seconds is not None:
            if self._last_seconds is not None and pts_seconds < self._last_seconds:
                self.due_seconds = None  # timestamps have jumped back
            self._last_seconds = pts_seconds
            wanted = self.is_due(pts_seconds, key_frame=key_frame)
            if wanted:
                due = pts_seconds if self.due_seconds is None else self.due_seconds
                # From the due time, not from now: the rate is met on average, without bursts.
                self.due_seconds = max(due + self.interval_seconds, pts_seconds)
        if not wanted:
            self.skipped += 1
        return wanted

    def is_due(self, seconds: float, *, key_frame: bool = False) -> bool:
        """Whether a frame of that time would be accepted."""
        if not self.interval_seconds or self.due_seconds is None:
            return True
        early = self.interval_seconds / 2 if key_frame else TOLERANCE_SECONDS
        return seconds >= self.due_seconds - early

    def skip(self, frames: int) -> None:
        """Frames that are not even decoded, by choice."""
        self.skipped += frames

    def take_skipped(self) -> int:
        """Frames skipped since the last call."""
        skipped, self.skipped = self.skipped, 0
        return skipped


class MediaTime:
    """The times of pictures in a video that may not state them, such as raw H.264."""

    def __init__(self, interval_seconds: float) -> None:
        """``interval_seconds``: assumed between a picture without pts and the one before."""
        self._interval_seconds = interval_seconds
        self._last = -interval_seconds

    def of(self, pts_seconds: float | None) -> float:
        """Seconds of the next picture: its pts, or an interval after the one before."""
        self._last = self._last + self._interval_seconds if pts_seconds is None else pts_seconds
        return self._last
