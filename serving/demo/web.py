"""The page as a web server: on loopback, for a browser of this machine that knows its address, and for
nothing that another site's page may send.

Gradio itself answers any Host and Origin, fetches addresses that it is asked for and has routes for its own
cloud: what the page does not need is not there.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

from eideticnet.serving.errors import ServingError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

HOST, USUAL_PORT = "127.0.0.1", 7860
MOST_UPLOADED = 1 << 30
"""Bytes of an archive that is uploaded."""
_MOST_SENT = 16 << 20
_API = "gradio_api/"
_UPLOAD = f"{_API}upload"
_ROUTES = (
    *("config", "theme.css", "favicon.ico", "assets/", "static/"),
    *(
        _API + name
        for name in ("queue/", "heartbeat/", "startup-events", "cancel", "reset", "info", "app_id")
    ),
    *(_API + name for name in ("upload", "upload_progress", "theme.css")),
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
        if not length.isdigit() or int(length) > most:
            return 413, f"expected at most {most} bytes"
        return 0, ""


def listening(port: int | None) -> socket.socket:
    """A socket on loopback: at ``port``, or by default at the usual one or any that is free."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for wanted in (USUAL_PORT, 0) if port is None else (port,):
        try:
            found.bind((HOST, wanted))
            found.listen()
        except OSError as error:
            problem = error
        else:
            return found
    found.close()
    raise ServingError(f"--port {port}: {problem.strerror}: end what listens there, or ask for another port")


def serve(blocks: gr.Blocks, css: str, at: socket.socket, told: Callable[[str], None]) -> None:
    """Serve ``blocks`` until a signal asks for the end; ``told`` gets the address."""
    path, port = f"/{secrets.token_urlsafe(16)}", at.getsockname()[1]
    app = FastAPI(openapi_url=None)
    gr.mount_gradio_app(
        app,
        blocks,
        path,
        server_name=HOST,
        server_port=port,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        max_file_size=MOST_UPLOADED,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        theme=gr.themes.Default(
            primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
        css=css,
    )
    config = uvicorn.Config(
        Guard(app, path, port),
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=1,
        server_header=False,
    )
    server = uvicorn.Server(config)
    told(f"http://{HOST}:{port}{path}/")
    server.run(sockets=[at])
