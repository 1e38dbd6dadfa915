"""`ssd-worker subscribe --pretty`: the cameras and what they see, as a table that stays current.

Takes the same events as the JSON Lines; draws on stdout, which must be a terminal. Logs appear
above the table. Ids and labels are shown as text whatever is in them: neither rich's markup nor
control characters have a meaning.
"""

import logging
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from worker.commands.camera_rows import CameraRow
from worker.commands.wiring import on_stop_signals
from worker.consumer import EventConsumer
from worker.consuming.filtering import EventFilter
from worker.consuming.latest import newest_events
from worker.consuming.plausible import is_plausible
from worker.errors import UsageError, WorkerError
from worker.events import DetectionsEvent, Event
from worker.settings.fields import SubscribeSettings
from worker.text import in_words, printable

REDRAWS_PER_SECOND = 2
"""50 cameras take 3 % of a core to draw twice a second (Xeon, Python 3.11)."""
COLUMNS_FROM_WIDTH = {"dropped": 90, "latency": 68, "fps": 50}
"""Width of the terminal in characters from which a column has room."""
LINES_AROUND = 5
"""Heading, rule, lines below the table, and the cursor's."""
STATE_STYLES = {"up": "green", "running": "green", "degraded": "yellow", "down": "red"}


def run_pretty(settings: SubscribeSettings, url: str) -> int:
    """Show the table until stopped or ``--count`` is reached; returns the exit code.

    Raises UsageError if stdout is not a terminal, SinkUnavailable or SinkError.
    """
    console = Console()
    if not console.is_terminal or console.is_dumb_terminal:
        raise UsageError(
            "--pretty draws a table on a terminal, and stdout is not one: leave it out for JSON "
            "Lines"
        )
    table = LiveTable(settings.filter_labels, settings.filter_score, replay=settings.replay)
    consumer = _consumer(url, settings, settings.group, settings.start)
    with consumer, on_stop_signals(consumer.stop) as signals:
        # After the consumer has its place: what comes in between is seen twice, and not never.
        found = newest_events(
            url, settings.cameras or None, replay=settings.replay, prefix=settings.key_prefix
        )
        for camera_id, events in found.items():
            table.begin(camera_id, events)
        with _shown(table, console):
            if settings.group is None:
                _follow(consumer, table, settings)
            else:
                _follow_group(consumer, table, settings, url)
    return 130 if signal.SIGINT in signals else 0


class LiveTable:
    """What is known of each camera, and how it looks. For two threads: events, and drawing."""

    def __init__(
        self,
        labels: Iterable[str] | None = None,
        score_threshold: float | None = None,
        *,
        replay: bool = False,
    ) -> None:
        """Detections with other ``labels``, or not above the threshold, are not counted."""
        self.rows: dict[str, CameraRow] = {}
        self._labels = None if labels is None else frozenset(labels)
        self._score_threshold = score_threshold
        self._replay = replay
        self._events = 0
        self._began = time.strftime("%H:%M:%S")
        self._lock = threading.Lock()

    def begin(self, camera_id: str, events: Sequence[Event]) -> None:
        """Show a camera as the last events of its stream, which are not counted, leave it."""
        with self._lock:
            row = self._row(camera_id)
            for event in filter(is_plausible, events):
                row.note(event)
            row.dropped = 0

    def note(self, event: Event) -> None:
        """Take over what an event says of its camera; one that no worker wrote is left out."""
        if not is_plausible(event):
            return
        with self._lock:
            self._row(event.data.camera_id).note(event)

    def count(self, event: Event) -> None:
        """Count an event, and its detections."""
        with self._lock:
            self._events += 1
            if isinstance(event, DetectionsEvent):
                self._row(event.data.camera_id).count(
                    detection.label
                    for detection in event.data.detections
                    if (self._labels is None or detection.label in self._labels)
                    and (self._score_threshold is None or detection.score > self._score_threshold)
                )

    def draw(self, console: Console) -> Group:
        """The table as it is now, for the size of the terminal."""
        width, height = console.size
        with self._lock:
            # Those in trouble first: in a low window the others are left out.
            rows = sorted(
                self.rows.values(), key=lambda row: (not row.is_in_trouble, row.camera_id)
            )
            room = max(height - LINES_AROUND, 1)
            shown = rows[:room]
            return Group(
                self._table(shown, width), *self._lines_below(rows, len(rows) - len(shown))
            )

    def _row(self, camera_id: str) -> CameraRow:
        if camera_id not in self.rows:
            self.rows[camera_id] = CameraRow(camera_id)
        return self.rows[camera_id]

    def _table(self, rows: Sequence[CameraRow], width: int) -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False, expand=True)
        columns = [
            name
            for name in ("replay" if self._replay else "camera", "state", *COLUMNS_FROM_WIDTH)
            if width >= COLUMNS_FROM_WIDTH.get(name, 0)
        ]
        columns.sort(key=["camera", "replay", "state", "fps", "latency", "dropped"].index)
        for name in columns:
            is_number = name in COLUMNS_FROM_WIDTH
            heading = "position" if name == "latency" and self._replay else name
            table.add_column(
                heading,
                justify="right" if is_number else "left",
                no_wrap=True,
                overflow="ellipsis",
                max_width=None if is_number else max(width // (4 if name == "state" else 5), 8),
            )
        table.add_column("detections", no_wrap=True, overflow="ellipsis", ratio=1)
        for row in rows:
            cells = {
                "camera": Text(printable(row.camera_id)),
                "state": _state(row),
                "fps": Text(_fps(row)),
                "latency": Text(_position(row) if self._replay else _latency(row)),
                "dropped": Text(f"{row.dropped:,}" if row.dropped else "-"),
            }
            cells["replay"] = cells["camera"]
            table.add_row(*(cells[name] for name in columns), Text(_counts(row)))
        return table

    def _lines_below(self, rows: Sequence[CameraRow], left_out: int) -> Iterator[Text]:
        if not rows:
            what = "replay PATH" if self._replay else "run SOURCE"
            yield _line(f"nothing to show yet: start `ssd-worker {what}`", "bold")
        elif left_out > 0:
            yield _line(f"{left_out} more: enlarge the window, or name the cameras", "bold")
        watched = sum(row.is_watched for row in rows)
        state = "running" if self._replay else "up"
        yield _line(
            f"{watched} of {len(rows)} {state}, {self._events:,} events and their detections, "
            f"frame by frame, since {self._began}; Ctrl-C ends",
            "dim",
        )


def _consumer(
    url: str, settings: SubscribeSettings, group: str | None, start: str
) -> EventConsumer:
    """Of all events: also those that are not asked for say whether a camera is watched."""
    return EventConsumer(
        url,
        settings.cameras or None,
        group=group,
        consumer=settings.consumer if group else None,
        start=start,
        replay=settings.replay,
        prefix=settings.key_prefix,
    )


def _follow(consumer: EventConsumer, table: LiveTable, settings: SubscribeSettings) -> None:
    """Count the events that are asked for, and acknowledge in a group; without one, note all."""
    wanted = EventFilter.of(settings.filter_labels, settings.filter_score, settings.filter_states)
    counted = 0
    for event in consumer:
        if settings.group is None:
            table.note(event)
        if wanted.wants(event):
            table.count(event)
            counted += 1
        if settings.group is not None:
            consumer.ack(event)
        if counted == settings.count:
            return


def _follow_group(
    consumer: EventConsumer, table: LiveTable, settings: SubscribeSettings, url: str
) -> None:
    """As ``_follow``, and note all events in a thread: others in the group get some of them."""
    failures: list[WorkerError] = []
    with _consumer(url, settings, None, "new") as watcher:

        def watch() -> None:
            try:
                for event in watcher:
                    table.note(event)
            except WorkerError as error:
                failures.append(error)
                consumer.stop()

        thread = threading.Thread(target=watch, name="states", daemon=True)
        thread.start()
        _follow(consumer, table, settings)
        watcher.stop()
        thread.join()
    if failures:
        raise failures[0]


@contextmanager
def _shown(table: LiveTable, console: Console) -> Iterator[None]:
    """Draw the table until the end of the block, where its last state stays."""
    is_log_on_terminal = sys.stderr.isatty()
    live = Live(
        console=console,
        get_renderable=lambda: table.draw(console),
        refresh_per_second=REDRAWS_PER_SECOND,
        redirect_stdout=False,
        redirect_stderr=is_log_on_terminal,
        vertical_overflow="crop",
    )
    with live:
        console.show_cursor(True)  # however the process ends, the terminal is in order
        with _logs_above(is_log_on_terminal):
            yield
        live.refresh()


@contextmanager
def _logs_above(is_log_on_terminal: bool) -> Iterator[None]:
    """Let log lines go through the display, which would else overwrite them."""
    handlers = [
        handler
        for handler in logging.getLogger("worker").handlers
        if is_log_on_terminal and isinstance(handler, logging.StreamHandler)
    ]
    before = [handler.setStream(sys.stderr) for handler in handlers]
    try:
        yield
    finally:
        for handler, stream in zip(handlers, before, strict=True):
            if stream is not None:
                handler.setStream(stream)


def _state(row: CameraRow) -> Text:
    state = row.state if row.silent_seconds() is None else "down"
    return Text(printable(row.state_in_words), style=STATE_STYLES.get(state or "", "dim"))


def _fps(row: CameraRow) -> str:
    if row.analysed_fps is not None:
        return f"{row.analysed_fps:.1f}"
    return "-" if row.decoded_fps is None else f"≤ {row.decoded_fps:.1f}"


def _latency(row: CameraRow) -> str:
    seconds = row.latency_seconds
    if seconds is None:
        return "-"
    return f"{seconds * 1000:,.0f} ms" if seconds < 10 else in_words(seconds)


def _position(row: CameraRow) -> str:
    if row.position_seconds is None:
        return "-"
    minutes, seconds = divmod(int(row.position_seconds), 60)
    return f"{minutes}:{seconds:02d}"


def _counts(row: CameraRow) -> str:
    return "  ".join(f"{printable(label)} {count:,}" for label, count in row.counts.most_common())


def _line(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
