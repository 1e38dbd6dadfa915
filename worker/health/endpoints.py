"""What the HTTP server of a worker answers: metrics, health, readiness and its cameras.

Takes a RunState and a registry; gives handlers by path. A probe gets 200 or 503, and one line.
"""

import json
import threading
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from worker.health.http_server import TEXT, Handler, Response
from worker.health.run_state import Answer, RunState

FRESH_SECONDS = 0.25
"""How long metrics serve whoever asks: they take 2 ms, too much for one that asks on and on."""
PLAIN, OPEN_METRICS = "text/plain", "application/openmetrics-text; version=1.0.0"
ABOUT = {
    "/metrics": "for Prometheus",
    "/healthz": "whether the process makes progress",
    "/readyz": "whether it does its work",
    "/cameras": "what each camera does, as JSON",
}


def endpoints(state: RunState, registry: CollectorRegistry) -> dict[str, Handler]:
    """Every path of ``run`` and ``replay``."""
    return _with_contents(
        {
            "/metrics": _metrics(registry),
            "/healthz": _probe(state.alive),
            "/readyz": _probe(state.ready),
            "/cameras": lambda accept: _json(state.table()),
        }
    )


def consumer_endpoints(
    ready: Callable[[], Answer], registry: CollectorRegistry
) -> dict[str, Handler]:
    """Every path of ``subscribe``."""
    return _with_contents(
        {
            "/metrics": _metrics(registry),
            "/healthz": _probe(lambda: Answer(True, "alive")),
            "/readyz": _probe(ready),
        }
    )


def _with_contents(handlers: dict[str, Handler]) -> dict[str, Handler]:
    contents = "".join(f"{path:10} {ABOUT[path]}\n" for path in handlers)
    return {"/": lambda accept: Response(200, TEXT, contents.encode()), **handlers}


def _metrics(registry: CollectorRegistry) -> Handler:
    """All of a registry, at most a moment old, in the newer form if the client accepts it."""
    made: dict[str, tuple[float, Response]] = {}
    lock = threading.Lock()

    def handler(accept: str) -> Response:
        # Of the Accept header no more than this: the library repeats its version in the answer.
        form = OPEN_METRICS if OPEN_METRICS.partition(";")[0] in accept else PLAIN
        with lock:  # whoever asks meanwhile gets the same
            made_at, response = made.get(form, (0.0, None))
            if response is None or time.monotonic() - made_at > FRESH_SECONDS:
                encode, content_type = choose_encoder(form)
                response = Response(200, content_type, encode(registry))
                made[form] = time.monotonic(), response
            return response

    return handler


def _probe(ask: Callable[[], Answer]) -> Handler:
    def handler(accept: str) -> Response:
        ok, why = ask()
        return Response(200 if ok else 503, TEXT, f"{why}\n".encode())

    return handler


def _json(value: object) -> Response:
    return Response(200, "application/json", json.dumps(value).encode() + b"\n")
