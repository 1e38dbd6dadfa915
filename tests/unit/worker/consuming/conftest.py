import pytest

from tests.conftest import REDIS_BINARIES, RedisServer
from tests.unit.worker.consuming.reading import Reading


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    # With 500 looks at its clock in a second, instead of 10, a wait of 1 ms takes about that.
    directory = tmp_path_factory.mktemp("valkey")
    server = RedisServer(REDIS_BINARIES["valkey"], directory, "--hz", "500")
    yield server
    server.stop()


@pytest.fixture
def reading(server):
    """Starts readers, of an empty server that forbids nothing."""
    server.client.flushall()
    server.client.acl_setuser("default", enabled=True, commands=["+@all"])
    server.client.config_resetstat()
    started = []

    def start(*arguments, **options):
        started.append(Reading(server, *arguments, **options))
        return started[-1]

    start.server = server.client
    yield start
    for each in started:
        each.close()
