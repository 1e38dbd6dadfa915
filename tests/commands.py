"""`ssd-worker` commands as processes: started anew, or forked from one that has the imports.

A forked command has a process id, exit code, signals, pipes, directory and environment of its own,
as a started one has. What it cannot show: that a fresh interpreter finds and imports everything,
how long that takes, what stands in the environment when libraries are imported, and what `ps` shows
(a process has its title and first environment from the server). Tests of those use ``exec_cli``.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time

from tests.conftest import ROOT, free_port


class Cli:
    """Runs `ssd-worker` as its own process, with a state directory and port of its own."""

    def __init__(self, tmp_path):
        self.port = free_port()
        self.cwd = tmp_path
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("SSD_WORKER_")} | {
            "SSD_WORKER_STATE_DIR": str(tmp_path / "state"),
            "SSD_WORKER_EMBEDDED_PORT": str(self.port),
        }
        self._processes = []

    def __call__(self, *arguments, timeout=90, **options):
        """Runs a command to its end; as subprocess.run."""
        process = self.start(*arguments, **options)
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def start(self, *arguments, code=None, stdout=subprocess.PIPE, preexec_fn=None):
        """Starts a command; ``code`` is run in the place of worker.cli, with the arguments."""
        program = ["-m", "worker.cli"] if code is None else ["-c", code]
        process = subprocess.Popen(
            [sys.executable, *program, *map(str, arguments)], cwd=self.cwd, env=self.env,
            stdout=stdout, stderr=subprocess.PIPE, text=True, preexec_fn=preexec_fn,
        )  # fmt: skip
        return self.keep(process)

    def keep(self, process):
        """The process, which ends with the test."""
        self._processes.append(process)
        return process

    def close(self):
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for pid_file in (self.cwd / "state").glob("valkey-*/valkey.pid"):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)


class ForkingCli(Cli):
    """The same without the seconds of the imports."""

    def __init__(self, tmp_path, server):
        super().__init__(tmp_path)
        self._server = server

    def start(self, *arguments, stdout=subprocess.PIPE):
        process = self._server.start([*map(str, arguments)], self.cwd, self.env, stdout)
        return self.keep(process)


class ForkServer:
    """Forks commands from a process that has imported what they need."""

    def __init__(self):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())], cwd=ROOT,
                # OpenBLAS would start its threads while NumPy is imported.
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip

    def start(self, arguments, cwd, env, stdout):
        request = json.dumps({"arguments": arguments, "cwd": str(cwd), "env": env}).encode()
        (out, out_end), (err, err_end), (status, status_end) = (os.pipe() for _ in range(3))
        target = out_end if stdout == subprocess.PIPE else stdout.fileno()
        try:
            socket.send_fds(self._socket, [request], [target, err_end, status_end])
        finally:
            for end in (out_end, err_end, status_end):
                os.close(end)
        return ForkedProcess(arguments, os.fdopen(out), os.fdopen(err), status)

    def close(self):
        self._socket.close()
        self._process.wait()


class ForkedProcess:
    """What the tests use of subprocess.Popen."""

    def __init__(self, arguments, stdout, stderr, status):
        self.args, self.stdout, self.stderr = arguments, stdout, stderr
        self._status = os.fdopen(status)
        self.returncode = None
        self._readers, self._rest = [], {}
        line = self._status.readline()
        if not line:
            raise RuntimeError("the fork server has ended: its last words are on stderr")
        self.pid = int(line)

    def wait(self, timeout=None):
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(self._status.readline())
        return self.returncode

    def poll(self):
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout=None):
        """The rest of stdout and stderr, once both have ended and the process too."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._readers:
            for name in ("stdout", "stderr"):
                self._readers.append(threading.Thread(target=self._read, args=(name,), daemon=True))
                self._readers[-1].start()
        for reader in self._readers:
            reader.join(None if deadline is None else max(0, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout)
        self.wait(None if deadline is None else max(0, deadline - time.monotonic()))
        return self._rest["stdout"], self._rest["stderr"]

    def _read(self, name):
        with getattr(self, name) as stream:
            self._rest[name] = stream.read()
