"""A real browser, a real dashboard and a real server, for all tests of the pages together.

Debian's chromium and chromium-driver with selenium. REQUIRE_BROWSER=1 turns their absence into a
failure; otherwise these tests are skipped.
"""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

import httpx
import pytest

from tests.browser.page import Page, start_browser
from tests.browser.publishing import PublishedCamera
from tests.conftest import REDIS_BINARIES, RedisServer, free_port, wait_until
from worker.sinks.redis_stream import RedisStreamSink

PROGRAMS = ("chromium", "chromedriver")


def missing():
    """What a browser test needs and does not find."""
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    return lacking + ([] if find_spec("selenium") else ["selenium"])


def pytest_runtest_setup(item):
    lacking = ", ".join(missing())
    if not lacking:
        return
    if os.environ.get("REQUIRE_BROWSER") == "1":
        pytest.fail(f"REQUIRE_BROWSER=1, and these are missing: {lacking}")
    pytest.skip("a browser (Debian: chromium, chromium-driver; and selenium)")


@pytest.fixture(scope="package")
def browser():
    driver = start_browser()
    yield driver
    driver.quit()


@pytest.fixture(scope="package")
def server(tmp_path_factory):
    server = RedisServer(REDIS_BINARIES["valkey"], tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="package")
def dashboard(server, tmp_path_factory):
    """The address of a running `ssd-worker dashboard`."""
    process = Dashboard(server.url, tmp_path_factory.mktemp("dashboard"))
    process.start()
    yield process
    process.stop()


class Dashboard:
    """The command as a process, which can be stopped and started again at its address."""

    def __init__(self, redis_url, directory, *, token=None):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [
            sys.executable, "-m", "worker.cli", "dashboard", "--listen", str(self.port),
            "--redis-url", redis_url, "--state-dir", str(directory),
            *(() if token is None else ("--auth-token", token)),
        ]  # fmt: skip
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def start(self):
        self.client = httpx.Client(base_url=self.url, headers=self.headers)
        self.process = subprocess.Popen(self.command)
        wait_until(self._answers, what="the dashboard")

    def stop(self):
        self.client.close()
        self.process.terminate()
        self.process.wait()

    def state(self):
        return self.client.get("/api/state").json()

    def _answers(self):
        assert self.process.poll() is None, "the dashboard has ended"
        try:
            return self.state()
        except httpx.TransportError:
            return None


@pytest.fixture
def sink(server, dashboard):
    """Publishes to a server that is empty, as the dashboard knows."""
    server.client.flushall()
    wait_until(lambda: not dashboard.state()["cameras"], what="the dashboard to forget")
    sink = RedisStreamSink(server.url)
    yield sink
    sink.close()


@pytest.fixture
def gate(sink, dashboard):
    """A camera that is up, and known to the dashboard."""
    camera = PublishedCamera(sink, "gate")
    camera.up()
    wait_until(lambda: dashboard.state()["cameras"], what="the dashboard to know it")
    return camera


@pytest.fixture
def page(browser, dashboard):
    page = Page(browser, dashboard.url)
    yield page
    page.leave()
