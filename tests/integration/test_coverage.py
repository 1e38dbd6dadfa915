"""Coverage of streams in Redis: from Python, and `ssd-worker coverage`."""

import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import ROOT, WALKWAY, wait_until
from tests.events import camera_event
from tests.schedules import T0, Down, Gone, Watch, World, stream_of
from tests.streams import frames_of, states_of
from tests.unit.worker.coverage.told import epoch_at, frame, state
from worker.consumer import EventConsumer
from worker.coverage import Coverage, coverage_of, intervals, reading
from worker.errors import SinkUnavailable, UsageError
from worker.keys import Keys

KEYS = Keys()
SCHEDULE = [
    Watch(40),
    Watch(40, is_redis_away=True),
    Down(30, "refused"),
    Watch(30, is_busy=False),
    Gone(60),
    Watch(40),
    Watch(30, are_events_lost=True),
    Watch(20),
]


@pytest.fixture(scope="module")
def world():
    return World(skipped=2).run(SCHEDULE)


def at(seconds):
    return T0 + timedelta(seconds=seconds)


@pytest.mark.parametrize("page", [2, 1000])
@pytest.mark.parametrize(
    ("start", "end"), [(0, 290), (-30, 300), (95, 130), (60, 100), (200, 5000), (5000, 6000)]
)
def test_a_stream_tells_what_its_events_tell(valkey_server, world, monkeypatch, start, end, page):
    """Those published late as well, and from what was long before the period."""
    monkeypatch.setattr(reading, "PAGE", page)
    world.write(valkey_server.client)
    found = coverage_of(valkey_server.url, KEYS, None, at(start), at(end))
    of_all = intervals(world.events, start=at(start), end=at(end))
    assert [(i.start, i.end, i.state, i.reason) for i in found["gate"]] == [
        (i.start, i.end, i.state, i.reason) for i in of_all["gate"]
    ]


def test_only_what_is_needed_is_read(valkey_server, world):
    world.write(valkey_server.client)
    read = []

    class Counting:
        def __init__(self, client):
            self._client = client

        def __getattr__(self, name):
            return getattr(self._client, name)

        def xread(self, *arguments, **options):
            reply = self._client.xread(*arguments, **options)
            read.extend(entry for _, entries in reply for entry in entries)
            return reply

    coverage = Coverage()
    client = Counting(valkey_server.client)
    coverage.read(client, KEYS, ["gate"], at(200), at(210))
    assert len(read) < len(world.events) / 2
    assert [i.state for i in coverage.of("gate", at(200), at(210))] == ["watched"]


def test_a_stream_that_was_trimmed_says_from_when_on_it_knows(redis_server, world):
    world.write(redis_server.client)
    redis_server.client.xtrim(stream_of("gate"), maxlen=150, approximate=False)
    first, *rest = coverage_of(redis_server.url, KEYS, ["gate"], at(0), at(290))["gate"]
    tells = redis_server.client.info("server")["redis_version"] >= "7"
    assert (first.state, first.reason) == ("unknown", "trimmed" if tells else "no_events")
    assert first.end > at(60)
    assert rest == intervals(world.events[-150:], start=at(0), end=at(290))["gate"][1:]


def test_a_stream_that_is_trimmed_while_it_is_read_has_lost_nothing(
    valkey_server, world, monkeypatch
):
    world.write(valkey_server.client)
    monkeypatch.setattr(reading, "PAGE", 20)

    class Trimming:
        def __init__(self, client):
            self._client, self._reads = client, 0

        def __getattr__(self, name):
            return getattr(self._client, name)

        def xread(self, *arguments, **options):
            self._reads += 1
            if self._reads == 3:
                self._client.xtrim(stream_of("gate"), maxlen=150, approximate=False)
            return self._client.xread(*arguments, **options)

    coverage = Coverage()
    coverage.read(Trimming(valkey_server.client), KEYS, ["gate"], at(0))
    found = coverage.of("gate", at(0), at(290))
    trimmed = [i for i in found if i.state == "unknown"]
    assert [i.reason for i in trimmed] == ["trimmed"]
    assert found[0].end <= trimmed[0].start
    assert next(i.state for i in found if i.end <= trimmed[0].start) == "reduced"
    assert found[-1].end == at(290)
    lost = sum(i.events_lost for i in intervals(world.events)["gate"])
    assert sum(i.events_lost for i in found) in (0, lost)


def test_entries_that_hold_no_event_are_passed_over_and_told_of(valkey_server, world, caplog):
    world.write(valkey_server.client)
    client = valkey_server.client
    client.xadd(stream_of("gate"), {"event": "{"})
    client.xadd(stream_of("gate"), {"something": "else"})
    found = coverage_of(client, KEYS, ["gate"], at(0), at(5000))["gate"]
    assert found == intervals(world.events, start=at(0), end=at(5000))["gate"]
    assert [r.getMessage() for r in caplog.records] == [
        "camera gate: skipping 2 entries that hold no valid event"
    ]


def test_a_camera_whose_key_is_not_a_stream_leaves_the_others(valkey_server, world, caplog):
    world.write(valkey_server.client)
    valkey_server.client.set(stream_of("yard"), "text")
    valkey_server.client.sadd("ssd:cameras", "yard")
    found = coverage_of(valkey_server.client, KEYS, None, at(0), at(290))
    assert [i.state for i in found["yard"]] == ["unknown"]
    assert found["gate"] == intervals(world.events, start=at(0), end=at(290))["gate"]
    assert "is not a stream" in caplog.text


def test_what_was_skipped_before_the_period_does_not_count_in_it(valkey_server):
    """The first detection after a quiet night tells what was skipped since the last one."""
    reconnected, frames_per_beat = 4000, 50
    night = [
        state(0, reason="connected"),
        frame(1, seq=1),
        state(reconnected - 5, "down", "stall", seq=400, frames=20_000),
        state(reconnected, reason="connected", epoch=epoch_at(reconnected)),
    ]
    beats = [
        state(reconnected + 10 * n, epoch=epoch_at(reconnected), seq=n, frames=frames_per_beat * n)
        for n in range(1, 21)
    ]
    seen = frame(reconnected + 201, epoch=epoch_at(reconnected), seq=21, index=1004, skipped=16_800)
    for event in [*night, *beats, seen]:
        fields = {"id": event.id, "type": event.type, "event": event.to_json()}
        entry_id = f"{round(event.time.timestamp() * 1000) + 50}-0"
        valkey_server.client.xadd(stream_of("gate"), fields, id=entry_id)
    start, end = at(reconnected + 80), at(reconnected + 200)
    found = coverage_of(valkey_server.client, KEYS, ["gate"], start, end)["gate"]
    assert [(i.state, i.frames_analysed) for i in found] == [("watched", 600)]


def test_what_is_read_can_be_continued_with_what_arrives(valkey_server, world):
    world.write(valkey_server.client)
    coverage = Coverage()
    coverage.read(valkey_server.client, KEYS, ["gate"], at(0))
    later = World().run([Watch(20)])
    for event in world.events[-30:] + later.events:  # what is known already comes again
        coverage.add(event)
    whole = intervals([*world.events, *later.events], start=at(0), end=at(290))
    assert coverage.of("gate", at(0), at(290)) == whole["gate"]


def test_a_consumer_tells_coverage(valkey_server, world):
    world.write(valkey_server.client)
    expected = intervals(world.events, start=at(0), end=at(290))
    with EventConsumer(valkey_server.url) as consumer:
        assert consumer.coverage(at(0), at(290)) == expected
    with EventConsumer(valkey_server.url, ["gate"], start="new") as consumer:
        assert consumer.coverage(at(0), at(290)) == expected
    with EventConsumer(valkey_server.url, ["yard"]) as consumer, pytest.raises(UsageError) as error:
        consumer.coverage(at(0), at(290))
    assert "no camera yard in Redis" in str(error.value)
    assert "it knows gate" in str(error.value)
    with (
        EventConsumer(valkey_server.url, replay=True) as consumer,
        pytest.raises(UsageError, match="live cameras"),
    ):
        consumer.coverage(at(0), at(290))


def test_a_server_that_is_gone_is_one_error(valkey_server):
    client = valkey_server.client
    valkey_server.stop()
    with pytest.raises(SinkUnavailable):
        coverage_of(client, KEYS, None, at(0), at(290))
    with pytest.raises(SinkUnavailable):
        Coverage().read(client, KEYS, ["gate"], at(0))


def test_the_user_reader_may_read_coverage(valkey_server, world):
    world.write(valkey_server.client)
    for line in (ROOT / "deploy" / "redis-users.acl").read_text().splitlines():
        name, *rules = line.split()[1:]
        if name == "reader":
            valkey_server.client.execute_command("ACL", "SETUSER", name, *rules)
    url = valkey_server.url.replace("://", "://reader:PASSWORD@")
    assert coverage_of(url, KEYS, None, at(0), at(290))["gate"][0].state == "reduced"


def test_an_error_names_some_of_many_cameras(valkey_server):
    valkey_server.client.sadd("ssd:cameras", "\x1b[31m", *(f"gate-{n:03}" for n in range(500)))
    with pytest.raises(UsageError) as error:
        coverage_of(valkey_server.client, KEYS, ["yard"], at(0), at(290))
    assert r"it knows '\x1b[31m', gate-000, gate-001, " in str(error.value)
    assert "gate-018 and 481 more; check --redis-url, --key-prefix" in str(error.value)


# The command

PERIOD = ("--from", "2026-11-20T03:00Z", "--to", "2026-11-20T03:04:50Z")


def test_the_command_prints_shares_and_intervals(cli, valkey_server, world):
    world.write(valkey_server.client)
    cli.env["TZ"] = "UTC"
    done = cli("coverage", *PERIOD, "--redis-url", valkey_server.url)
    assert done.returncode == 0, done.stderr
    shares, rows = done.stdout.split("\n\n")
    states = shares.splitlines()[0].split()
    assert states == ["camera", "watched", "reduced", "down", "worker_down", "lost", "unknown"]
    lines = rows.splitlines()
    expected = intervals(world.events, start=at(0), end=at(290))["gate"]
    assert len(lines) == 1 + len(expected)
    page = (ROOT / "docs" / "coverage.md").read_text()
    shown = "$ ssd-worker coverage gate --from 2026-11-20T03:00Z --to 2026-11-20T03:04:50Z\n"
    assert f"{shown}{done.stdout}```" in page
    (down,) = [line for line in lines if "refused" in line]
    assert "30.0 s   down" in down
    assert any("events_lost (" in line for line in lines)


def test_an_id_of_another_tool_cannot_write_to_the_terminal(cli, valkey_server):
    valkey_server.client.sadd("ssd:cameras", "a/{b}\x1b[31m\n\u00fc")
    done = cli("coverage", "--redis-url", valkey_server.url)
    assert done.returncode == 0, done.stderr
    assert "a/{b}\ufffd[31m\ufffd\u00fc  -" in done.stdout
    assert "\x1b" not in done.stdout


def test_the_command_prints_json(cli, valkey_server, world):
    world.write(valkey_server.client)
    done = cli("coverage", "gate", *PERIOD, "--json", "--redis-url", valkey_server.url)
    told = json.loads(done.stdout)
    assert (told["from"], told["to"]) == ("2026-11-20T03:00:00.000Z", "2026-11-20T03:04:50.000Z")
    gate = told["cameras"]["gate"]
    expected = intervals(world.events, start=at(0), end=at(290))["gate"]
    assert gate["intervals"] == [i.as_dict() for i in expected]
    assert sum(gate["seconds"].values()) == pytest.approx(290)


def test_the_command_says_that_there_are_no_cameras(cli, valkey_server):
    done = cli("coverage", "--redis-url", valkey_server.url, "--json")
    assert (done.returncode, json.loads(done.stdout)["cameras"]) == (0, {})
    assert "knows no cameras: start `ssd-worker run`" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nosuch",), "no camera nosuch in Redis at 127.0.0.1:{port}: it knows gate"),
        (("a/b",), "camera id 'a/b': use 1 to 64 letters"),
        (("--from", "yesterday"), "--from: expected a time such as 2026-11-28T03:12, a date, or"),
        (("--to", "5"), "--to: expected a time"),
        (("--from", "99999999999d"), "--from: expected a time"),
        (("--from", "1h", "--to", "2h"), "--from 1h --to 2h: ends before it starts"),
        (("--from", "2999-01-01"), "--from 2999-01-01: is yet to come"),
        (("--plot", "coverage.svg"), "--plot coverage.svg: expected .png"),
        (("--plot", "nosuch/coverage.png"), "the directory nosuch does not exist: create it"),
        (("--redis-url", "none"), "--redis-url none has no events to read: give a URL"),
    ],
)
def test_what_cannot_work_is_one_line(cli, valkey_server, arguments, words):
    event = camera_event()
    fields = {"id": event.id, "type": event.type, "event": event.to_json()}
    valkey_server.client.xadd(stream_of("gate"), fields)
    valkey_server.client.sadd("ssd:cameras", "gate")
    cli.env["SSD_WORKER_REDIS_URL"] = valkey_server.url
    done = cli("coverage", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words.format(port=valkey_server.port) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_file_of_settings_names_cameras_and_times(cli, valkey_server, world):
    world.write(valkey_server.client)
    config = Path(cli.cwd) / "settings.toml"
    config.write_text(
        f'redis_url = "{valkey_server.url}"\ncameras = ["gate"]\n'
        'from_time = 2026-11-20T03:00:00Z\nto_time = 2026-11-20T03:04:50Z\nstart = "new"\n'
    )
    done = cli("coverage", "--config", config, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["from"] == "2026-11-20T03:00:00.000Z"


@pytest.mark.long
def test_many_entries_are_read_in_little_memory(valkey_server):
    world = World().run([Watch(10_000)]).write(valkey_server.client)
    tracemalloc.start()
    try:
        found = coverage_of(valkey_server.client, KEYS, ["gate"], at(0), at(10_000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(i.frames_analysed for i in found["gate"]) == world.analysed
    assert peak < 10_000_000


@pytest.mark.long
def test_real_workers_tell_what_happened_to_them(cli, valkey_server, rtsp_server):
    """A camera that goes and comes back, a worker that is killed, one that is stopped."""
    client, server = valkey_server.client, ("--redis-url", valkey_server.url)
    source = f"gate={rtsp_server.publish(WALKWAY, 'walkway.mp4')}"

    def wait_for_frames():
        seen = len(frames_of(client, "gate"))
        wait_until(lambda: len(frames_of(client, "gate")) > seen + 20, 60, "frames")

    begun = datetime.now(UTC)
    worker = cli.start("run", source, *server)
    wait_for_frames()
    rtsp_server.stop()
    wait_until(lambda: states_of(client, "gate")[-1][0] == "down", 20, "the loss")
    rtsp_server.start()
    wait_for_frames()
    worker.kill()
    worker.wait()
    killed = datetime.now(UTC)
    worker = cli.start("run", source, *server)
    wait_for_frames()
    worker.terminate()
    assert worker.wait(20) == 0
    stopped = datetime.now(UTC)
    with EventConsumer(valkey_server.url) as consumer:
        found = consumer.coverage(begun, stopped + timedelta(seconds=60))["gate"]
    told = [
        "watched" if each.state in ("watched", "reduced") else (each.state, each.reason)
        for each in found
    ]
    told = [here for before, here in pairwise([None, *told]) if here != before]
    down = [each for each in told if each[0] == "down"]
    assert told == [
        ("unknown", "no_events"),
        "watched",
        *down,
        "watched",
        ("worker_down", "silent"),
        "watched",
        ("worker_down", "stopped"),
    ]
    assert down
    (silence,) = (each for each in found if each.reason == "silent")
    assert abs((silence.start - killed).total_seconds()) < 11
    assert abs((found[-1].start - stopped).total_seconds()) < 5
    of_frames = sum(each.frames_analysed for each in found)
    assert of_frames >= len(frames_of(client, "gate")) * 0.9
