"""The page as a web server on loopback."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable

import gradio as gr
import uvicorn
from fastapi import FastAPI

from eideticnet.serving.demo.guard import HOST, MOST_UPLOADED, Guard
from eideticnet.serving.errors import ServingError

USUAL_PORT = 7860


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
