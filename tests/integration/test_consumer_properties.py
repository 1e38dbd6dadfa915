"""Whatever is killed or lost, a group delivers every event, those of a camera in order."""

import itertools
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.conftest import REDIS_BINARIES, RedisServer
from tests.events import detections_event
from tests.faults.tcp_proxy import TcpProxy
from worker.consumer import EventConsumer
from worker.sinks.redis_stream import RedisStreamSink

CAMERAS = ("gate", "yard")
NAMES = ("one", "two")
SILENCE_SECONDS = 0.05
AN_HOUR_MS = 3_600_000

publish = st.tuples(st.just("publish"), st.sampled_from(CAMERAS), st.integers(1, 25))
take = st.tuples(
    st.just("take"), st.sampled_from(NAMES), st.integers(1, 40),
    st.sampled_from(["all", "none", "odd", "at the end"]),
)  # fmt: skip
kill = st.tuples(st.just("kill"), st.sampled_from(NAMES))
lose = st.tuples(
    st.just("lose"), st.sampled_from(NAMES),
    st.sampled_from(["XREADGROUP", "BLOCK", "XAUTOCLAIM", "XACK", "abandon"]),
)  # fmt: skip
age = st.tuples(st.just("age"))
steps = st.lists(st.one_of(publish, take, kill, lose, age), min_size=4, max_size=20)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = RedisServer(REDIS_BINARIES["valkey"], tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture(scope="module", autouse=True)
def quick_retries():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worker.consumer.FIRST_RETRY_SECONDS", 0.01)
        yield


class World:
    """A server, consumers that can be killed, and all that they have got."""

    def __init__(self, server, names):
        server.client.flushall()
        self.client = server.client
        self.names = names
        self.sink = RedisStreamSink(server.url)
        self.proxies = {name: TcpProxy(server.port) for name in names}
        for proxy in self.proxies.values():
            proxy.__enter__()
        self.consumers = {}
        self.published = defaultdict(int)
        self.got = []
        """Name, camera and number of each delivery."""
        self.left_by_others = defaultdict(set)
        """By name: camera and number of the entries that it could claim from others."""

    def close(self):
        for consumer in self.consumers.values():
            consumer.close()
        for proxy in self.proxies.values():
            proxy.__exit__()
        self.sink.close()

    def publish(self, camera_id, count):
        first = self.published[camera_id]
        self.published[camera_id] += count
        self.sink.publish(
            [detections_event(camera_id, seq=seq) for seq in range(first, first + count)]
        )

    def take(self, name, count, acknowledge):
        if name not in self.consumers:
            self.consumers[name] = EventConsumer(
                f"redis://127.0.0.1:{self.proxies[name].port}", CAMERAS, group="alerts",
                consumer=name, timeout_seconds=SILENCE_SECONDS,
            )  # fmt: skip
        consumer = self.consumers[name]
        events = []
        for event in itertools.islice(consumer, count):
            events.append(event)
            self.got.append((name, event.data.camera_id, event.data.seq))
            if acknowledge == "all" or (acknowledge == "odd" and event.data.seq % 2):
                consumer.ack(event)
        if acknowledge == "at the end":
            consumer.ack_many(events)

    def kill(self, name):
        """End a consumer as a killed process ends: its connection is closed, and nothing else."""
        if name in self.consumers:
            self.consumers.pop(name).close()

    def lose(self, name, what):
        if what == "abandon":  # the read goes on in the server, where an event comes for it
            proxy = self.proxies[name]
            proxy.when_abandoned = lambda: self.publish("gate", 1)
            proxy.abandon_request = b"BLOCK"
        else:
            self.proxies[name].cut_replies_to = what.encode()

    def age(self):
        """An hour passes: consumers that start now can claim what is pending."""
        for camera_id in CAMERAS:
            stream = f"ssd:{{{camera_id}}}:detections"
            numbers = {entry_id: n for n, (entry_id, _) in enumerate(self.client.xrange(stream))}
            if not numbers or not self.client.xinfo_groups(stream):
                continue
            for found in self.client.xpending_range(stream, "alerts", "-", "+", 10_000):
                entry_id, holder = found["message_id"], found["consumer"].decode()
                self.client.xclaim(
                    stream, "alerts", holder, 0, [entry_id], idle=AN_HOUR_MS, justid=True
                )
                for name in self.names:
                    if name != holder:
                        self.left_by_others[name].add((camera_id, numbers[entry_id]))
        for name in self.names:
            self.kill(name)

    def finish(self):
        """Let the first consumer take and acknowledge whatever is left."""
        for _ in range(2):
            self.age()
            self.take(self.names[0], 10_000, "all")

    def assert_delivered(self):
        got = {(camera_id, seq) for _, camera_id, seq in self.got}
        assert got == {(c, seq) for c, count in self.published.items() for seq in range(count)}
        for camera_id in self.published:
            pending = self.client.xpending(f"ssd:{{{camera_id}}}:detections", "alerts")
            assert pending["pending"] == 0

    def first_deliveries(self, name, camera_id):
        """In the order in which a consumer first got them, those left aside that it claimed."""
        found = [seq for who, camera, seq in self.got if (who, camera) == (name, camera_id)]
        claimed = self.left_by_others[name]
        return [seq for seq in dict.fromkeys(found) if (camera_id, seq) not in claimed]


def play(server, plan, names):
    world = World(server, names)
    try:
        for what, *arguments in plan:
            if what in ("take", "kill", "lose"):
                arguments[0] = arguments[0] if arguments[0] in names else names[0]
            getattr(world, what)(*arguments)
        world.finish()
        world.assert_delivered()
        for name, camera_id in itertools.product(names, CAMERAS):
            first = world.first_deliveries(name, camera_id)
            assert first == sorted(first), (name, camera_id)
        return world
    finally:
        world.close()


def examples(count):
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def play_alone(server, plan):
    world = play(server, plan, NAMES[:1])
    for camera_id, count in world.published.items():
        assert world.first_deliveries("one", camera_id) == list(range(count))


@examples(15)
@given(plan=steps)
def test_a_consumer_gets_every_event_first_in_order_whatever_is_killed_or_lost(server, plan):
    play_alone(server, plan)


@pytest.mark.long
@examples(15)
@given(plan=steps)
def test_two_consumers_get_every_event_whatever_is_killed_or_lost(server, plan):
    play(server, plan, NAMES)


@pytest.mark.long
@pytest.mark.timeout(1200)
@examples(200)
@given(plan=steps)
def test_a_consumer_gets_every_event_first_in_order_in_many_plans(server, plan):
    play_alone(server, plan)


@pytest.mark.long
@pytest.mark.timeout(1200)
@examples(200)
@given(plan=steps)
def test_two_consumers_get_every_event_in_many_plans(server, plan):
    play(server, plan, NAMES)
