"""Commands forked by the tests' own server behave as processes; see tests.commands."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import wait_until


def subscribe(cli, server, *arguments, **options):
    return cli.start("subscribe", *arguments, "--redis-url", server.url, **options)


def test_a_forked_command_has_its_own_process_directory_and_environment(cli, valkey_server):
    cli.env["FOR_THE_COMMAND"] = "yes"
    first, second = (subscribe(cli, valkey_server) for _ in range(2))
    assert len({first.pid, second.pid, os.getpid()}) == 3
    assert Path(f"/proc/{first.pid}/cwd").readlink() == cli.cwd
    assert first.poll() is None
    (cli.cwd / "settings.toml").write_text("key_prefixx = 'x'\n")
    cli.env["SSD_WORKER_CONFIG"] = "settings.toml"
    refused = cli("doctor")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "settings.toml" in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_a_forked_command_as_it_ends_a_process(cli, valkey_server, number):
    process = subscribe(cli, valkey_server)
    wait_until(lambda: len(valkey_server.client.client_list()) > 1, what="the subscriber")
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=20)
    # A subscriber that is asked to end before it reads has been interrupted.
    ends = {signal.SIGINT: (130,), signal.SIGTERM: (0, 130), signal.SIGKILL: (-9,)}[number]
    assert process.returncode in ends
    assert process.returncode == process.poll() == process.wait()
    assert stdout == ""
    assert "Traceback" not in stderr
    process.kill()  # of a process that has ended: nothing
    assert not Path(f"/proc/{process.pid}").exists()


def test_waiting_for_a_forked_command_that_runs_on_times_out(cli, valkey_server):
    process = subscribe(cli, valkey_server)
    for wait in (process.wait, process.communicate):
        with pytest.raises(subprocess.TimeoutExpired):
            wait(timeout=0.05)
    process.kill()
    assert process.communicate(timeout=20)[0] == ""


def test_the_output_of_a_forked_command_goes_where_it_is_sent(cli):
    with (cli.cwd / "models").open("w") as file:
        process = cli.start("models", stdout=file)
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, "")
    assert (cli.cwd / "models").read_text() == cli("models").stdout != ""
