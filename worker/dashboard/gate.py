"""The ASGI application in front of the others: who is let through, and the headers of all answers.

Refuses foreign host names, which another site may have made to lead here (DNS rebinding), and those
without credentials. Knows what needs none: the login form and what it is made of.
"""

import json
import logging
from collections.abc import Collection
from pathlib import Path
from urllib.parse import parse_qs

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.dashboard.access import (
    COOKIE,
    COOKIE_SECONDS,
    LOOPBACK_NAMES,
    SECURITY_HEADERS,
    Credentials,
    Tries,
    host_of,
)
from worker.text import printable

log = logging.getLogger(__name__)

MAX_FORM_BYTES = 4096
OPEN_PATHS = ("/static/",)
"""What the login form is made of: the same for everybody who has the package."""


class Gate:
    """Lets through to ``app`` who may see it."""

    def __init__(
        self,
        app: ASGIApp,
        credentials: Credentials,
        login_page: Path,
        hosts: Collection[str] | None = None,
    ) -> None:
        """``hosts``: names that the page is served under besides those of loopback; None: any."""
        self._app = app
        self._credentials = credentials
        self._login_page = login_page
        self._hosts = None if hosts is None else {*LOOPBACK_NAMES, *map(str.lower, hosts)}
        self._tries = Tries()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        answer = await self._refusal(Request(scope, receive))
        await (answer or self._app)(scope, receive, send_with_headers)

    async def _refusal(self, request: Request) -> Response | None:
        """The answer to who is not let through."""
        if self._hosts is not None and host_of(request.headers.get("host", "")) not in self._hosts:
            return refuse(
                421,
                "this name does not belong to the dashboard: open it as 127.0.0.1 or localhost, or "
                "start it with --allowed-hosts NAME",
            )
        if not self._credentials.are_needed or request.url.path.startswith(OPEN_PATHS):
            return None
        if request.url.path == "/login":
            return await self._login(request)
        if request.url.path == "/logout" and request.method == "POST":
            return self._logout()
        if self._credentials.fit_cookie(request.headers.get("cookie", "")):
            return None
        return self._without_cookie(request)

    def _without_cookie(self, request: Request) -> Response | None:
        header = request.headers.get("authorization")
        if header is None:
            return self._ask(request)
        wait = self._tries.wait_seconds(_address(request))
        if wait:
            return _too_many(wait)
        if self._credentials.fit_header(header):
            return None
        self._count_wrong(request)
        return self._ask(request)

    def _count_wrong(self, request: Request) -> None:
        log.warning("a wrong token or password from %s", printable(_address(request)))
        self._tries.count(_address(request))

    def _ask(self, request: Request) -> Response:
        """For the credentials: in a form for people, in a line for programs."""
        headers = {"WWW-Authenticate": 'Bearer realm="ssd-worker"'}
        if self._credentials.password is not None:  # the browser asks for them itself
            headers = {"WWW-Authenticate": 'Basic realm="ssd-worker", charset="UTF-8"'}
        elif "text/html" in request.headers.get("accept", "") and request.method == "GET":
            return FileResponse(self._login_page, 401, headers | {"Cache-Control": "no-store"})
        return refuse(401, "the dashboard needs its token, or user and password: log in", headers)

    async def _login(self, request: Request) -> Response | None:
        if self._credentials.token is None:
            return RedirectResponse("/", 303)
        if request.method != "POST":
            return FileResponse(self._login_page, headers={"Cache-Control": "no-store"})
        fields = await _form(request)
        if fields is None:
            return refuse(413, "the form is too large")
        if self._tries.wait_seconds(_address(request)):
            return RedirectResponse("/login?wait", 303)
        if not self._credentials.fit_token(fields.get("token", "").strip()):
            self._count_wrong(request)
            return RedirectResponse("/login?wrong", 303)
        answer = RedirectResponse(_local_path(fields.get("next", "/")), 303)
        answer.set_cookie(
            COOKIE,
            self._credentials.new_cookie(),
            max_age=COOKIE_SECONDS,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    def _logout(self) -> Response:
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer


def refuse(status: int, problem: str, headers: dict[str, str] | None = None) -> Response:
    """An answer of one line for people, in JSON."""
    return Response(json.dumps({"error": problem}), status, headers, media_type="application/json")


def _too_many(wait: float) -> Response:
    return refuse(
        429,
        "too many wrong tokens or passwords from this address: wait a minute",
        {"Retry-After": str(round(wait) + 1)},
    )


async def _form(request: Request) -> dict[str, str] | None:
    """The fields of a small form; None if it is a large one."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return None
    fields = parse_qs(body.decode(errors="replace"), keep_blank_values=True)
    return {name: values[0] for name, values in fields.items()}


def _local_path(path: str) -> str:
    """Where to go after the login; never to another site."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/"


def _address(request: Request) -> str:
    return request.client.host if request.client else ""
