"""A real server, and clients that mean it no good."""

import http.client
import socket
import threading
from contextlib import closing

import pytest

from tests.conftest import wait_until
from worker.errors import UsageError
from worker.health.http_server import MOST_CONNECTIONS, TEXT, Response, serving

SLOW_HEADERS = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "


def healthy(accept):
    return Response(200, TEXT, f"alive, {accept}\n".encode())


def broken(accept):
    raise KeyError("secret")


@pytest.fixture(scope="module")
def port():
    with serving(("127.0.0.1", 0), {"/healthz": healthy, "/broken": broken}) as port:
        yield port


def ask(port, path="/healthz", method="GET", host="127.0.0.1", **headers):
    with closing(http.client.HTTPConnection(host, port, timeout=10)) as connection:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response, response.read().decode()


def test_a_path_is_answered_by_its_handler(port):
    response, body = ask(port, "/healthz?verbose=1", Accept="text/plain")
    assert (response.status, body) == (200, "alive, text/plain\n")
    assert response.getheader("X-Content-Type-Options") == "nosniff"
    assert response.getheader("Cache-Control") == "no-store"
    assert "Python" not in response.getheader("Server")


def test_head_has_no_body(port):
    response, body = ask(port, method="HEAD", Accept="x")
    assert (response.status, body) == (200, "")
    assert response.getheader("Content-Length") == "9"


def test_an_unknown_path_names_those_that_there_are(port):
    response, body = ask(port, "/metric")
    assert (response.status, body) == (404, "not here: there are /healthz, /broken\n")


def test_other_methods_are_refused(port):
    assert ask(port, method="POST")[0].status == 501


def test_a_handler_that_fails_is_an_error_without_details(port):
    response, body = ask(port, "/broken")
    assert (response.status, body) == (500, "internal error: KeyError\n")


def connect(port, data=b""):
    client = socket.create_connection(("127.0.0.1", port), 10)
    client.sendall(data)
    return client


def threads():
    return sum("process_request" in thread.name for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("count", "data"),
    [
        (60, SLOW_HEADERS),
        pytest.param(1000, b"", marks=pytest.mark.long),
        pytest.param(1000, SLOW_HEADERS, marks=pytest.mark.long),
    ],
)
def test_many_clients_that_hold_on_keep_no_probe_waiting(port, count, data):
    clients, most = [], 0
    try:
        for index in range(count):
            clients.append(connect(port, data))
            if index % 20 == 19:
                assert ask(port)[0].status == 200
                most = max(most, threads())
    finally:
        for client in clients:
            client.close()
    assert most <= MOST_CONNECTIONS
    wait_until(lambda: threads() == 0, what="the end of their threads")


def test_a_client_that_sends_garbage_gets_an_error_and_nothing_is_logged(port, capfd):
    with closing(connect(port, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n")) as client:
        assert b"400" in client.recv(1000)
    with closing(connect(port, b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n")) as client:
        assert b"414" in client.recv(1000)
    with closing(connect(port, b"GET /healthz HTTP/1.1\r\n")) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # resets
    assert ask(port)[0].status == 200
    assert capfd.readouterr() == ("", "")


def test_the_end_does_not_wait_for_clients():
    with serving(("127.0.0.1", 0), {"/healthz": healthy}) as port:
        clients = [connect(port, SLOW_HEADERS) for _ in range(3)]
        wait_until(lambda: threads() == 3, what="their threads")
    for client in clients:
        client.close()
    with pytest.raises(ConnectionRefusedError):
        connect(port)


def test_a_port_that_is_taken_is_one_line(port):
    address = f"127.0.0.1:{port}"
    with (
        pytest.raises(
            UsageError, match=rf"--http {address}: cannot listen there \(Address already"
        ),
        serving(("127.0.0.1", port), {}),
    ):
        pass


def test_a_host_that_is_not_this_machine_is_one_line():
    with (
        pytest.raises(UsageError, match=r"cannot listen there .*: choose another port or address"),
        serving(("203.0.113.1", 0), {}),  # of RFC 5737: nobody's
    ):
        pass


@pytest.mark.skipif(not socket.has_ipv6, reason="IPv6 (this machine has none)")
def test_an_address_of_ipv6():
    with serving(("::1", 0), {"/healthz": healthy}) as port:
        assert ask(port, host="::1")[0].status == 200


def test_the_look_goes_on_without_requests():
    looked = threading.Semaphore(0)
    with serving(("127.0.0.1", 0), {}, looked.release):
        for _ in range(2):
            assert looked.acquire(timeout=10)
