"""Every kind of address that --redis-url takes, against real servers."""

import shutil
import socket

import pytest
import redis
import trustme

from tests.conftest import REDIS_BINARIES, RedisServer, free_port, wait_until
from tests.events import detections_event
from worker.consumer import EventConsumer
from worker.errors import CameraRefused, SinkError, SinkUnavailable, UsageError
from worker.keys import Keys
from worker.publishing.ownership import NOBODY, Bid
from worker.servers.address import connect
from worker.sinks.forgetting import forget
from worker.sinks.redis_stream import RedisStreamSink

CAMERAS = ("gate", "yard", "door", "hall")  # in different cluster slots


def publish_and_read_back(url):
    sink = RedisStreamSink(url, owner="worker")
    holders = sink.own(dict.fromkeys(CAMERAS, Bid("worker", NOBODY)))
    assert [holder.taken for holder in holders.values()] == [True] * len(CAMERAS)
    sink.publish([detections_event(camera, seq=seq) for camera in CAMERAS for seq in range(3)])
    sink.publish([detections_event("gate", seq=2)])
    sink.close()
    with EventConsumer(url, timeout_seconds=0.5) as consumer:
        plain = sorted((e.data.camera_id, e.data.seq) for e in consumer)
    with EventConsumer(url, group="g", consumer="c", timeout_seconds=0.5) as consumer:
        grouped = []
        for event in consumer:
            grouped.append((event.data.camera_id, event.data.seq))
            consumer.ack(event)
    with EventConsumer(url, group="g", consumer="c", timeout_seconds=0.5) as consumer:
        assert list(consumer) == []
    assert plain == sorted(grouped) == sorted((c, seq) for c in CAMERAS for seq in range(3))


@pytest.fixture
def start(tmp_path):
    """Start a server of the Redis protocol with options."""
    servers = []

    def start(name, *options):
        directory = tmp_path / f"server-{len(servers)}"
        directory.mkdir()
        servers.append(RedisServer(REDIS_BINARIES[name], directory, *options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def test_a_plain_address_with_user_and_password(start):
    server = start("valkey", "--requirepass", "p@ss:w/rd#?")
    publish_and_read_back(f"redis://default:p%40ss%3Aw%2Frd%23%3F@127.0.0.1:{server.port}/0")


def test_a_unix_socket(start, tmp_path):
    start("valkey", "--unixsocket", str(tmp_path / "s"))
    publish_and_read_back(f"unix://{tmp_path / 's'}")


def test_a_cluster(start):
    # Its bus port is port + 10000 by default, which may exceed 65535.
    server = start("valkey", "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    node = redis.Redis(port=server.port)
    node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    wait_until(lambda: b"cluster_state:ok" in node.execute_command("CLUSTER", "INFO"))
    url = f"redis+cluster://127.0.0.1:{server.port}"
    publish_and_read_back(url)
    deleted = [each for camera in CAMERAS for each in forget(url, Keys(), camera, force=True)]
    assert sum(each.events or 0 for each in deleted) == 3 * len(CAMERAS)
    refuse_one_camera(url, node)


def refuse_one_camera(url, node):
    """Its key is of a wrong type: its script ends the calls of a batch, one by one in a cluster."""
    sink = RedisStreamSink(url, owner="worker")
    node.set("ssd:{yard}:producer", "not a hash")
    holders = sink.own(dict.fromkeys(CAMERAS, Bid("worker", NOBODY)))
    assert isinstance(holders.pop("yard"), CameraRefused)
    assert [holder.taken for holder in holders.values()] == [True] * 3
    with pytest.raises(CameraRefused, match="camera yard: "):
        sink.publish([detections_event(camera) for camera in CAMERAS])
    assert node.xlen("ssd:{gate}:detections") == 1  # before it in the batch
    sink.close()


def test_a_missing_cluster_and_a_server_that_is_not_a_cluster_are_distinguished(start):
    with pytest.raises(SinkUnavailable, match="no Redis answers"):
        connect(f"redis+cluster://127.0.0.1:{free_port()}")
    with pytest.raises(SinkError, match="is not a cluster: use redis://"):
        connect(f"redis+cluster://127.0.0.1:{start('valkey').port}")


@pytest.mark.skipif(
    not shutil.which("redis-server"),
    reason="Redis with TLS (no redis-server; Valkey's wheel has no TLS)",
)
def test_tls_with_a_certificate_that_is_checked(start, tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    ca, key, chain = tmp_path / "ca.pem", tmp_path / "key.pem", tmp_path / "chain.pem"
    authority.cert_pem.write_to_path(ca)
    certificate.private_key_pem.write_to_path(key)
    certificate.cert_chain_pems[0].write_to_path(chain)
    port = free_port()
    start(
        "redis", "--tls-port", str(port), "--tls-cert-file", str(chain), "--tls-key-file", str(key),
        "--tls-ca-cert-file", str(ca), "--tls-auth-clients", "no",
    )  # fmt: skip
    publish_and_read_back(f"rediss://localhost:{port}?ssl_ca_certs={ca}")
    with pytest.raises(SinkUnavailable, match=f"localhost:{port}"):
        connect(f"rediss://localhost:{port}")  # its authority is unknown to this machine


def test_a_server_that_refuses_the_login_is_distinguished_from_a_missing_one(start):
    server = start("valkey", "--requirepass", "right")
    with pytest.raises(SinkError, match="refused the login") as caught:
        connect(f"redis://:wrong@127.0.0.1:{server.port}")
    assert not isinstance(caught.value, SinkUnavailable)
    with pytest.raises(SinkUnavailable, match="no Redis answers"):
        connect(f"redis://127.0.0.1:{free_port()}")


@pytest.mark.parametrize(
    "url",
    ["", "localhost:6379", "http://localhost", "redis://h:port", "redis://[::1"],
)
def test_a_malformed_address_is_refused(url):
    with pytest.raises(UsageError, match="redis-url"):
        connect(url)


def test_a_server_without_room_for_another_client_is_not_reported_as_missing(start):
    server = start("valkey", "--maxclients", "1")
    assert server.client.ping()  # holds the only connection
    with pytest.raises(SinkUnavailable, match=f"127.0.0.1:{server.port} accepts no more clients"):
        connect(server.url)


def test_a_listener_that_never_answers_times_out(monkeypatch):
    monkeypatch.setattr("worker.servers.address.REPLY_TIMEOUT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(SinkUnavailable, match=f"127.0.0.1:{port}"):
            connect(f"redis://:p4ss-w0rd@127.0.0.1:{port}")


@pytest.mark.parametrize(
    "open_it", [EventConsumer, lambda url: RedisStreamSink(url).last_epoch("a")]
)
@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("decode_responses=true", "the option decode_responses after the ? cannot be chosen: r"),
        ("decode_responses=false", "the option decode_responses after the ? cannot be chosen: r"),
        ("db=0&protocol=3", "the option protocol after the ? cannot be chosen: remove it"),
        ("encoding=latin-1", "the option encoding after the ? cannot be chosen: remove it"),
        ("encoding_errors=x", "the option encoding_errors after the ? cannot be chosen: remove it"),
        ("legacy_responses=no", "the option legacy_responses after the ? cannot be chosen"),
        ("socket_timeout=0.5", "the option socket_timeout after the ? cannot be chosen: remove it"),
        ("Decode_Responses=1", "unknown option Decode_Responses after the ?: remove or correct it"),
        ("a%20secret%0Aword=1", ": unknown option after the ?: remove or correct it"),
        ("db=first", "the option db after the ? does not fit this address, or its value is wrong"),
        ("ssl_ciphers=x", "the option ssl_ciphers after the ? does not fit this address, or its v"),
    ],
)
def test_options_that_would_change_replies_are_refused_in_one_line(
    valkey_server, open_it, option, words
):
    with pytest.raises(UsageError) as caught:
        open_it(f"{valkey_server.url}?{option}")
    assert words in str(caught.value)
    assert f"127.0.0.1:{valkey_server.port}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_that_say_how_to_reach_a_server_are_taken(valkey_server):
    options = "client_name=camera-hall&health_check_interval=5&socket_keepalive=true&db=1"
    publish_and_read_back(f"{valkey_server.url}?{options}")
    client = connect(f"{valkey_server.url}?{options}")
    assert client.client_getname() in (b"camera-hall", "camera-hall")
    assert client.scard("ssd:cameras") == len(CAMERAS)
    client.close()
