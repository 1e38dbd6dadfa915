"""The pages, their files and the API: requests in, answers out.

Paths are taken apart as they were sent: ids of other tools may hold slashes, which arrive encoded.
Answers are JSON but for pictures and pages; errors are ``{"error": LINE}``.
"""

import logging
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sse_starlette import EventSourceResponse
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from worker.dashboard.clock import RedisClock
from worker.dashboard.coverage import CoverageStore
from worker.dashboard.feed import DOES_NOT_ANSWER
from worker.dashboard.gate import refuse
from worker.dashboard.history import MAX_SPAN_SECONDS, Histories, counts_json
from worker.dashboard.hub import Hub, TooManyViewers, Wanted
from worker.dashboard.messages import to_json
from worker.dashboard.pictures import Pictures
from worker.dashboard.replays import ReplayRecord, Replays
from worker.dashboard.times import iso, parse_time
from worker.errors import SinkError
from worker.servers.address import RedisClient

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
PING_SECONDS = 15
HOUR_SECONDS = 3600.0
DAY_SECONDS = 24 * HOUR_SECONDS
MAX_BUCKETS = 1000
NOTHING_HERE = "there is nothing at this address: begin at /"
RETRY = b"retry: 1000\n\n"
"""Milliseconds after which a browser connects again."""


class NotFound(Exception):
    """What was asked for is not there; the message is for people."""


class Dashboard:
    """The ASGI application behind the gate."""

    def __init__(
        self,
        hub: Hub,
        clock: RedisClock,
        pictures: Pictures,
        histories: Histories,
        replays: Replays,
        coverage: CoverageStore,
    ) -> None:
        self._hub = hub
        self._clock = clock
        self._pictures = pictures
        self._histories = histories
        self._replays = replays
        self._coverages = coverage
        self._files = _Files(directory=STATIC, check_dir=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        request = Request(scope, receive)
        answer: ASGIApp
        try:
            answer = await self._answer(request)
        except NotFound as error:
            answer = refuse(404, str(error))
        except TooManyViewers as error:
            answer = refuse(503, str(error), {"Retry-After": "10"})
        except ValueError as error:
            answer = refuse(400, str(error))
        except SinkError as error:
            log.debug("%s", error)
            answer = refuse(503, DOES_NOT_ANSWER, {"Retry-After": "1"})
        try:
            await answer(scope, receive, send)
        except HTTPException as error:  # of the files, before anything is sent
            await refuse(error.status_code, NOTHING_HERE)(scope, receive, send)

    async def _answer(self, request: Request) -> ASGIApp:
        if request.method not in ("GET", "HEAD"):
            return refuse(405, "only GET and HEAD are answered here", {"Allow": "GET, HEAD"})
        query = request.query_params
        match _parts(request.scope):
            case [""]:
                return _page("index.html")
            case ["camera", _]:
                return _page("camera.html")
            case ["replay", _]:
                return _page("replay.html")
            case ["static", *_]:
                return self._files
            case ["api", "state"]:
                return _json(self._hub.state())
            case ["api", "events"]:
                return self._events(request)
            case ["api", "snapshots"]:
                return await self._snapshots(query)
            case ["api", "coverage"]:
                return await self._coverage(query)
            case ["api", "cameras", camera_id]:
                return await self._camera(camera_id)
            case ["api", "cameras", camera_id, "snapshot"]:
                return await self._snapshot(camera_id)
            case ["api", "cameras", camera_id, "counts"]:
                return await self._counts(camera_id, query)
            case ["api", "replays", replay_id]:
                return await self._replay(replay_id)
            case ["api", "replays", replay_id, "at"]:
                return await self._moment(replay_id, query)
        raise NotFound(NOTHING_HERE)

    def _events(self, request: Request) -> ASGIApp:
        query = request.query_params
        score = query.get("min_score")
        wanted = Wanted(
            _names(query, "camera"),
            _names(query, "label"),
            None if not score else _number("min_score", score),
        )
        address = request.client.host if request.client else ""
        viewer = self._hub.admit(wanted, address)

        async def events() -> Any:
            yield RETRY
            async for sent in self._hub.events(viewer):
                yield sent

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await EventSourceResponse(events(), ping=PING_SECONDS, sep="\n")(
                    scope, receive, send
                )
            finally:
                self._hub.leave(viewer)

        return answer

    async def _snapshots(self, query: QueryParams) -> Response:
        after = int(_number("after", query.get("after") or "0"))
        camera_ids = query.getlist("camera") or self._hub.camera_ids
        version, found = await self._pictures.after(camera_ids, after)
        return Response(
            b"".join(picture.packed for picture in found),
            headers={"X-Version": str(version)},
            media_type="application/octet-stream",
        )

    async def _snapshot(self, camera_id: str) -> Response:
        self._known(camera_id)
        picture = await self._pictures.of(camera_id)
        if picture is None:
            raise NotFound("no picture: the camera is down, or its worker runs without --snapshots")
        epoch, frame_index = picture.is_of
        return Response(
            picture.jpeg,
            headers={"X-Captured-At": picture.captured_at, "X-Frame": f"{epoch}/{frame_index}"},
            media_type="image/jpeg",
        )

    async def _camera(self, camera_id: str) -> Response:
        camera = self._known(camera_id)
        start = self._clock.now() - DAY_SECONDS
        if camera["reason"] == "not_a_stream":
            return _json({**camera, "changes": [], "changes_complete": True, "ignore": None})
        changes, are_all = await self._histories.read(
            camera_id, start, lambda history: (history.changes(), history.has_all_changes)
        )
        return _json({**camera, "changes": changes, "changes_complete": are_all, "ignore": None})

    async def _counts(self, camera_id: str, query: QueryParams) -> Response:
        if self._known(camera_id)["reason"] == "not_a_stream":
            raise NotFound("the key of this camera in Redis is not a stream: delete or rename it")
        start, end = self._span(query, HOUR_SECONDS)
        buckets = int(_number("buckets", query.get("buckets") or "60"))
        if not 1 <= buckets <= MAX_BUCKETS:
            raise ValueError(f"buckets: expected 1 to {MAX_BUCKETS}")
        return _json(
            await self._histories.read(
                camera_id, start, lambda history: counts_json(history, start, end, buckets)
            )
        )

    async def _coverage(self, query: QueryParams) -> Response:
        camera_ids = query.getlist("camera") or self._hub.camera_ids
        for camera_id in camera_ids:
            self._known(camera_id)
        start, end = self._span(query, DAY_SECONDS)
        found, pending = await self._coverages.of(camera_ids, start, end)
        return _json({"from": iso(start), "to": iso(end), "cameras": found, "pending": pending})

    async def _replay(self, replay_id: str) -> Response:
        def read(client: RedisClient, replay: ReplayRecord) -> dict[str, Any] | None:
            replay.read(client)
            return replay.as_json() if replay.is_there else None

        return _json(_found(await self._replays.use(replay_id, read)))

    async def _moment(self, replay_id: str, query: QueryParams) -> Response:
        seconds = _number("seconds", query.get("seconds") or "0")
        found = await self._replays.use(
            replay_id, lambda client, replay: replay.at(client, seconds)
        )
        return _json(_found(found))

    def _span(self, query: QueryParams, default_seconds: float) -> tuple[float, float]:
        """The times ``from`` and ``to``; by default up to now."""
        end = _time("to", query.get("to")) or self._clock.now()
        start = _time("from", query.get("from")) or end - default_seconds
        if not 0 < end - start <= MAX_SPAN_SECONDS:
            raise ValueError("from, to: expected from before to, by a week at most")
        return start, end

    def _known(self, camera_id: str) -> dict[str, Any]:
        camera = self._hub.camera(camera_id)
        if camera is None:
            raise NotFound("Redis knows no camera of this id")
        return camera


class _Files(StaticFiles):
    """The page's own files, which a browser asks for again after an update."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__({**scope, "root_path": "/static"}, receive, send)

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        answer = super().file_response(*arguments, **options)
        answer.headers["Cache-Control"] = "no-cache"
        return answer


def _parts(scope: Scope) -> list[str]:
    """The parts of a path, each decoded by itself."""
    path = scope.get("raw_path") or scope["path"].encode()
    return [unquote(part, errors="replace") for part in path.decode("latin-1").split("/")[1:]]


def _page(name: str) -> Response:
    return FileResponse(STATIC / name, headers={"Cache-Control": "no-cache"})


def _json(value: Any) -> Response:
    return Response(to_json(value), media_type="application/json")


def _names(query: QueryParams, name: str) -> frozenset[str] | None:
    """The values of a parameter that may be given several times; None for none."""
    return frozenset(query.getlist(name)) or None


def _found(answer: dict[str, Any] | None) -> dict[str, Any]:
    if answer is None:
        raise NotFound("Redis holds no replay of this id")
    return answer


def _time(name: str, text: str | None) -> float | None:
    if not text:
        return None
    try:
        return parse_time(text)
    except ValueError:
        raise ValueError(f"{name}: expected a time such as 2026-11-28T03:12:00Z") from None


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not abs(number) <= 1e15:
        raise ValueError(f"{name}: expected a number")
    return number
