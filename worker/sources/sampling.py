"""Which frames to analyse: every Nth, or at most N per second. The others are skipped by choice."""


class Sampler:
    """Decides frame by frame; two runs over the same frames make the same decisions."""

    def __init__(self, *, stride: int = 1, fps: float | None = None) -> None:
        """Accept every ``stride``-th frame, and on average at most ``fps`` per second of video."""
        self._stride = stride
        self._interval_seconds = 1 / fps if fps else 0.0
        self._due_seconds: float | None = None
        self._last_seconds: float | None = None
        self.skipped = 0
        """Frames skipped since the last accepted one."""

    def accepts(self, frame_index: int, pts_seconds: float | None) -> bool:
        """Whether to analyse a frame; counts it in ``skipped`` if not."""
        wanted = frame_index % self._stride == 0 and self._is_due(pts_seconds)
        if not wanted:
            self.skipped += 1
        return wanted

    def take_skipped(self) -> int:
        """Frames skipped since the last call."""
        skipped, self.skipped = self.skipped, 0
        return skipped

    def _is_due(self, now: float | None) -> bool:
        if now is None:
            return True
        jumped_back = self._last_seconds is not None and now < self._last_seconds
        self._last_seconds = now
        if self._due_seconds is None or jumped_back:
            self._due_seconds = now
        # Half a millisecond of tolerance: pts at 30 fps are rounded to ticks.
        if now < self._due_seconds - 0.0005:
            return False
        # From the due time, not from now, so that the rate is met on average, without bursts.
        self._due_seconds = max(self._due_seconds + self._interval_seconds, now)
        return True
