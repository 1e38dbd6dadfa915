"""`ssd-worker subscribe --pretty` on a real pseudo-terminal, with a real server."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
from contextlib import closing

import pytest

from tests.conftest import wait_until
from tests.events import camera_event, detections_event
from worker.consumer import EventConsumer
from worker.publishing.checkpoint import ReplayClaim
from worker.sinks.redis_stream import RedisStreamSink

SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


class Terminal:
    """A pseudo-terminal, and what was written to it."""

    def __init__(self, rows, columns):
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.file = os.fdopen(theirs, "w")
        self._raw = b""

    @property
    def raw(self):
        while select.select([self._ours], [], [], 0)[0]:
            self._raw += os.read(self._ours, 1 << 16)
        return self._raw.decode()

    @property
    def text(self):
        """Without escape sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw)

    def close(self):
        self.file.close()
        os.close(self._ours)


@pytest.fixture
def terminal(cli):
    cli.env |= {"TERM": "xterm-256color"}
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        cli.env.pop(name, None)
    terminal = Terminal(30, 100)
    yield terminal
    terminal.close()


def publish(url, *events):
    with closing(RedisStreamSink(url)) as sink:
        sink.publish(events)


def start(cli, terminal, url, *options):
    return cli.start("subscribe", "--pretty", "--redis-url", url, *options, stdout=terminal.file)


def shows(terminal, pattern):
    wait_until(lambda: re.search(pattern, terminal.text), what=f"{pattern!r} on the terminal")


def test_the_table_follows_events_and_ctrl_c_leaves_the_terminal_clean(
    cli, terminal, valkey_server
):
    publish(valkey_server.url, camera_event(seq=0))
    process = start(cli, terminal, valkey_server.url)
    shows(terminal, r"gate +up +- +- +- ")
    publish(valkey_server.url, *(detections_event(seq=n) for n in range(1, 4)))
    shows(terminal, r"gate +up .* Person 3 ")
    publish(valkey_server.url, camera_event("yard[red]", state="down", reason="timeout"))
    shows(terminal, r"yard\[red\] +down timeout")
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert terminal.raw.rindex(SHOW_CURSOR) > terminal.raw.rindex(HIDE_CURSOR)
    assert terminal.text.rstrip().endswith("Ctrl-C ends")
    assert process.communicate(timeout=10)[1] == ""


def test_a_consumer_of_a_group_shows_every_camera_and_counts_its_share(
    cli, terminal, valkey_server
):
    url = valkey_server.url
    EventConsumer(url, group="alerts", start="new").close()
    publish(url, camera_event(seq=0), detections_event(seq=1))
    with EventConsumer(url, group="alerts", consumer="other", timeout_seconds=0.1) as other:
        assert len(list(other)) == 2
    publish(url, detections_event(seq=2))
    process = start(cli, terminal, url, "--group", "alerts", "--filter-labels", "Person")
    shows(terminal, r"gate +up .* Person 1 ")
    wait_until(lambda: "1 events" in terminal.text, what="the count of events")
    process.terminate()
    assert process.wait(10) == 0
    (group,) = valkey_server.client.xinfo_groups("ssd:{gate}:detections")
    assert (group["lag"], group["pending"]) == (0, 2)


def test_a_replay_is_shown_and_count_ends_the_table(cli, terminal, valkey_server):
    with closing(RedisStreamSink(valkey_server.url)) as sink:
        sink.claim_replay("clip", ReplayClaim("r", "m", "s"), restart=False)
        events = [detections_event("clip", epoch=0, seq=n, mode="replay") for n in range(4)]
        ended = camera_event(
            "clip", epoch=0, seq=4, mode="replay", state="ended", reason="truncated"
        )
        sink.publish([*events, ended])
    options = ("--replay", "--from", "start", "--count", "4")
    process = start(cli, terminal, valkey_server.url, *options)
    assert process.wait(10) == 0
    assert re.search(r"clip +ended truncated +- +0:00 +- +Person 4", terminal.text)


def test_logs_stand_above_the_table(cli, terminal, valkey_server):
    publish(valkey_server.url, camera_event(seq=0))
    process = start(cli, terminal, valkey_server.url)
    shows(terminal, "gate +up")
    valkey_server.client.xadd("ssd:{gate}:detections", {"event": "?"})
    publish(valkey_server.url, detections_event(seq=1))
    shows(terminal, "Person 1 ")
    process.terminate()
    process.wait(10)
    # stderr is no terminal here: what is logged stays out of the table.
    assert "holds no valid event" in process.communicate(timeout=10)[1]
    assert "holds no valid event" not in terminal.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--pretty",), "--pretty draws a table on a terminal, and stdout is not one"),
        (("--pretty", "--lag", "--group", "a"), "--lag prints and exits: leave out --pretty"),
    ],
)
def test_what_cannot_be_shown_is_one_line(cli, valkey_server, options, words):
    found = cli("subscribe", *options, "--redis-url", valkey_server.url)
    assert (found.returncode, found.stdout) == (2, "")
    assert words in found.stderr
    assert len(found.stderr.splitlines()) == 1
