"""A consumer in a thread of its own, for tests that do things to Redis meanwhile."""

import logging
import threading

from tests.conftest import wait_until
from worker.consumer import EventConsumer


class Consuming:
    """Reads, and acknowledges if in a group, for the duration of a ``with`` block."""

    def __init__(self, url, *arguments, ack=True, **options):
        self.consumer = EventConsumer(url, *arguments, **options)
        self.events = []
        self.error = None
        self._ack = ack and options.get("group") is not None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.consumer.stop()
        self._thread.join(10)
        assert not self._thread.is_alive()
        self.consumer.close()
        assert self.error is None, repr(self.error)

    @property
    def is_alive(self):
        return self._thread.is_alive()

    def seqs(self, camera_id="gate"):
        return [e.data.seq for e in list(self.events) if e.data.camera_id == camera_id]

    def wait_for(self, *seqs, camera_id="gate"):
        """Waits until the last of these has come, and checks that exactly these have come."""
        wait_until(
            lambda: self.error or (seqs[-1] in self.seqs(camera_id)), what=f"event {seqs[-1]}"
        )
        assert self.error is None, repr(self.error)
        assert self.seqs(camera_id) == list(seqs)

    def _run(self):
        try:
            for event in self.consumer:
                self.events.append(event)
                if self._ack:
                    self.consumer.ack(event)
        except Exception as error:
            self.error = error


def wait_for_blocked(client, count=1):
    """Waits until so many clients wait in the server for entries."""
    wait_until(
        lambda: sum("b" in each["flags"] for each in client.client_list()) >= count,
        what=f"{count} blocked clients",
    )


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def calls_of(server, command):
    """How often a server has executed a command."""
    return server.client.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]
