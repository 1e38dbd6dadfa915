"""A dashboard that serves on a free port, in a thread; and what a browser would do with it."""

import json
import threading
import time
from contextlib import contextmanager

import httpx

from worker.dashboard.access import Credentials
from worker.dashboard.application import Application
from worker.dashboard.serving import listen
from worker.keys import Keys

LOGIN_TOKEN = "0123456789abcdef"


class RunningDashboard:
    """Answers at ``url``; ``get`` as a browser does."""

    def __init__(self, redis_url, credentials=None, hosts=(), prefix="ssd"):
        listener = listen("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.application = Application(redis_url, Keys(prefix), credentials or Credentials(), hosts)
        self.thread = threading.Thread(target=self.application.serve, args=(listener,))
        self.thread.start()
        self.client = httpx.Client(base_url=self.url, timeout=10)

    def get(self, path, **options):
        return self.client.get(path, **options)

    def state(self):
        return self.get("/api/state").json()

    def camera(self, camera_id="gate"):
        """What the page shows of a camera; None if it shows none of this id."""
        return next((c for c in self.state()["cameras"] if c["id"] == camera_id), None)

    @contextmanager
    def events(self, **query):
        """Server-sent events, as (name, data)."""
        with self.client.stream("GET", "/api/events", params=query, timeout=10) as answer:
            yield sent_events(answer)

    def stop(self):
        self.client.close()
        self.application.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()


def sent_events(answer):
    assert answer.status_code == 200, answer.read()
    name = None
    for line in answer.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def next_of(events, *names, **expected):
    """The data of the next event with one of these names and these fields, within some seconds."""
    deadline = time.monotonic() + 20
    for name, data in events:
        assert time.monotonic() < deadline, f"waited in vain for {names} {expected}"
        if name in names and all(data[key] == value for key, value in expected.items()):
            return data
    raise AssertionError("the stream has ended")
