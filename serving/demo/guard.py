"""What a request has to be, so that the page answers it: sent by the page itself, or typed into a browser, on
this machine, by who knows the page's address.

Gradio by itself answers any Host and Origin, fetches addresses that it is asked for, and has routes for files
and for its own cloud: what the page does not need is not there.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

HOST = "127.0.0.1"
MOST_UPLOADED = 1 << 30
"""Bytes of an archive that is uploaded."""
_MOST_SENT = 16 << 20
_UPLOAD = "gradio_api/upload"
_ROUTES = (
    *("config", "theme.css", "assets/", "static/", _UPLOAD, f"{_UPLOAD}_progress"),
    *(
        f"gradio_api/{name}"
        for name in ("queue/", "heartbeat/", "startup-events", "cancel", "reset", "info", "app_id")
    ),
)
"""What the page asks for: a name ending in a slash stands for all that is under it."""
_AT_THE_ROOT = ("/manifest.json", "/favicon.ico")
"""What browsers ask for there, wherever the page lies: it is empty."""
_HEADERS = {
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'none'",
            "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Gradio's own, and Vega's
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            *(f"{what}-src 'self'" for what in ("connect", "font", "worker", "manifest")),
            "base-uri 'self'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """Answers requests to ``path`` (which nobody can guess) at ``port`` of this machine, sent by the page
    itself or typed into a browser."""

    def __init__(self, inner: Application, path: str, port: int) -> None:
        self._inner, self._path = inner, path
        self._hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._inner(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close"})
        status, text = self._refusal(scope["method"], scope["path"], Headers(scope=scope))
        if status:
            return await PlainTextResponse(f"{text}\n", status, _HEADERS)(scope, receive, send)

        async def begin(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        return await self._inner(scope, receive, begin)

    def _refusal(self, method: str, path: str, headers: Headers) -> tuple[int, str]:
        """Why a request is not answered, with its status; 0 for one that is."""
        host = headers.get("host", "")
        if host not in self._hosts:
            return 403, "another name than this machine's own"
        if headers.get("origin", f"http://{host}") != f"http://{host}":
            return 403, "sent by another site"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, "sent by another site"
        if path in _AT_THE_ROOT:
            return 200, "{}"
        start = path[: len(self._path)]
        if not secrets.compare_digest(start.encode(), self._path.encode()):
            return 404, "open the whole address that eidetic demo has printed"
        route = path.removeprefix(self._path).removeprefix("/")
        if route and not any(
            route == known or (known[-1] == "/" and route.startswith(known)) for known in _ROUTES
        ):
            return 404, "not a part of this page"
        if method not in ("GET", "HEAD", "POST"):
            return 405, "GET and POST are what is allowed"
        return self._too_large(method, route, headers)

    def _too_large(self, method: str, route: str, headers: Headers) -> tuple[int, str]:
        if "transfer-encoding" in headers:
            return 411, "tell the length of what is sent"
        most = MOST_UPLOADED + _MOST_SENT if route == _UPLOAD else _MOST_SENT
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > most:
            return 413, f"expected at most {most} bytes"
        return 0, ""
