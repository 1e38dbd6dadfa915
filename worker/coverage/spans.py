"""Spans: one camera's time without gaps, in stretches that are classified by their counts.

Takes pieces of time with a state, and counts of frames; gives intervals. Knows no events. Times are
seconds since 1970.

How many frames were skipped is not known when time passes, but only with the next analysed frame
that has an event. Spans whose frames are not told apart yet are kept separate until then.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from worker.coverage.interval import Interval, State

REDUCED_SHARE = 0.05
"""Share of frames not analysed from which a camera counts as watched at a lower rate: the one that
the alert rules warn at."""
BUCKET_SECONDS, MAX_BUCKET_SECONDS = 10.0, 60.0
"""Frames are added up over at least the first before they are judged, at most over the second."""
BUCKET_FRAMES = 20
"""And over more than these, so that a single dropped one is no lower rate."""
NO_FRAMES_SECONDS = 15.0
"""A camera that was up for so long without an analysed frame was not watched in full."""


@dataclass(slots=True)
class Span:
    """Some time in one state."""

    start: float
    end: float
    state: State
    reason: str
    condition: str | None = None
    """While it was watched: why it was ``degraded``, or ""; None while it was not watched."""
    analysed: float = 0.0
    dropped: float = 0.0
    skipped: float = 0.0
    uncounted: float = 0.0
    """Decoded frames that were analysed or skipped: it is not known yet which."""
    lost: int = 0

    def classify(self) -> None:
        """Decide on the state of a span that was watched."""
        if self.condition is not None:
            self.reason = self._reduced_by()
            self.state = "reduced" if self.reason else "watched"

    def _reduced_by(self) -> str:
        looked_at = self.analysed + self.uncounted
        most = max(REDUCED_SHARE * (looked_at + self.dropped + self.skipped), 1.0)
        if self.condition == "late":
            return "late"
        if self.dropped > most:
            return "dropped"
        if self.condition:
            return self.condition
        if self.skipped > most:
            return "skipped"
        return "no_frames" if not looked_at and self.end - self.start > NO_FRAMES_SECONDS else ""

    @property
    def is_full(self) -> bool:
        """Whether its frames can be judged."""
        seconds = self.end - self.start
        enough = self.analysed + self.uncounted + self.dropped + self.skipped > BUCKET_FRAMES
        return seconds >= (BUCKET_SECONDS if enough else MAX_BUCKET_SECONDS)

    def takes(self, later: "Span") -> bool:
        """Whether a span that follows can become part of this one."""
        return (self.state, self.reason, self.condition) == (
            later.state,
            later.reason,
            later.condition,
        )

    def take(self, later: "Span") -> None:
        """Become one with the span that follows."""
        self.end = later.end
        self.analysed += later.analysed
        self.dropped += later.dropped
        self.skipped += later.skipped
        self.uncounted += later.uncounted
        self.lost += later.lost


class Spans:
    """The spans of one camera, in order and without gaps."""

    def __init__(self) -> None:
        self._settled: list[Span] = []
        """What no later count changes."""
        self._open: list[Span] = []
        """What follows, since the first frames that are not told apart yet."""
        self._bucket: Span | None = None
        """The last of ``_open``, while frames are added to it."""
        self._shares: tuple[float, float] | None = None
        """Frames analysed and frames skipped per uncounted frame, as counted last."""

    def pass_time(self, start: float, end: float, state: State, reason: str, lost: int = 0) -> Span:
        """Time in which the camera was not watched, or nothing is known; gives its span."""
        self._close_bucket()
        return _append(self._open or self._settled, Span(start, end, state, reason, lost=lost))

    def watch(self, start: float, end: float, condition: str) -> Span:
        """Time in which the camera was watched; gives the span to add its frames to.

        Without any time, what passed last is meant.
        """
        bucket = self._bucket
        if bucket and ((bucket.is_full and end > start) or bucket.condition != condition):
            self._close_bucket()
            bucket = None
        if bucket is None:
            bucket = self._bucket = Span(start, end, "watched", "", condition)
            self._open.append(bucket)
        bucket.end = max(bucket.end, end)
        return bucket

    def _close_bucket(self) -> None:
        """Judge the frames added up so far."""
        bucket, self._bucket = self._bucket, None
        if bucket is None:
            return
        self._open.pop()
        _judge(bucket, self._open or self._settled)
        _append(self._open, bucket)
        if not any(span.uncounted for span in self._open):
            self._settle_open()

    def count(self, analysed: float, skipped: float, uncounted: float) -> None:
        """Of so many uncounted frames, so many were analysed; besides, so many were skipped.

        Holds for all that are uncounted, also those from before the count began.
        """
        self._shares = analysed / uncounted, skipped / uncounted
        self.settle()

    def settle(self) -> None:
        """Let no later count change what has passed: it is as what was counted last."""
        if self._shares is None:
            return
        for span in self._open:
            _tell_apart(span, self._shares)
        if self._bucket is not None:
            self._open.pop()
        self._settle_open()
        if self._bucket is not None:
            self._open.append(self._bucket)

    def cut_at(self, time: float) -> None:
        """Forget everything after this time."""
        for span in reversed([*self._settled, *self._open]):
            if span.end <= time:
                break
            span.end = time
            span.start = min(span.start, time)

    def forget_before(self, time: float) -> None:
        """Drop the spans that ended before a time."""
        self._settled = [span for span in self._settled if span.end > time]

    def __iter__(self) -> Iterator[Span]:
        """Copies of the spans, as they are judged at present."""
        told = [replace(span) for span in self._settled]
        for span in self._open:
            copy = replace(span)
            _tell_apart(copy, self._shares or (1.0, 0.0))
            _judge(copy, told)
            told.append(copy)
        return iter(told)

    def _settle_open(self) -> None:
        for span in self._open:
            _judge(span, self._settled)
            _append(self._settled, span)
        self._open.clear()


def _tell_apart(span: Span, shares: tuple[float, float]) -> None:
    span.analysed += span.uncounted * shares[0]
    span.skipped += span.uncounted * shares[1]
    span.uncounted = 0.0


def _judge(span: Span, before: list[Span]) -> None:
    """Decide on a span's state; one that is too short for that is as what was before it."""
    last = before[-1] if before else None
    if last is not None and last.condition == span.condition and not span.is_full:
        if span.condition is not None:
            span.state, span.reason = last.state, last.reason
    else:
        span.classify()


def _append(spans: list[Span], span: Span) -> Span:
    """Add a span, or let the last one take it; gives the one that holds it."""
    if spans and spans[-1].takes(span):
        spans[-1].take(span)
        return spans[-1]
    spans.append(span)
    return span


def clipped(spans: Iterable[Span], start: float, end: float) -> list[Interval]:
    """The intervals from ``start`` to ``end``; a span that is cut keeps its share of the frames."""
    merged: list[Span] = []
    for span in spans:
        since, until = max(span.start, start), min(span.end, end)
        if since >= until:
            continue
        share = (until - since) / (span.end - span.start)
        part = replace(
            span,
            start=since,
            end=until,
            condition=None,
            analysed=span.analysed * share,
            dropped=span.dropped * share,
            skipped=span.skipped * share,
        )
        if merged and merged[-1].takes(part):
            merged[-1].take(part)
        else:
            merged.append(part)
    return [_interval(span) for span in merged]


def _interval(span: Span) -> Interval:
    return Interval(
        datetime.fromtimestamp(span.start, UTC),
        datetime.fromtimestamp(span.end, UTC),
        span.state,
        span.reason,
        round(span.analysed),
        round(span.dropped),
        round(span.skipped),
        span.lost,
    )
