"""torchvision's downloads, with a cache of the test's own and without a network."""

import socket
import urllib.request

import pytest


@pytest.fixture
def torchvision_cache(tmp_path, monkeypatch):
    """Where torchvision keeps the files that it has downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    path = tmp_path / "torch" / "hub" / "checkpoints"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def no_network(monkeypatch):
    """Every connection goes to a loopback port that is taken, and where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{taken.getsockname()[1]}")
        urllib.request.install_opener(None)  # the next one reads the environment again
        yield
        urllib.request.install_opener(None)
