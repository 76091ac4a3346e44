"""Command line: ``python -m serving start ARCHIVE...``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from export.archive import Archive, read_archive
from export.errors import ArchiveError
from serving.errors import ServingError
from serving.process import TorchServe, end_group
from serving.ready import example_request, wait_until_ready
from serving.settings import free_ports
from serving.show import announce

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Serve model archives with TorchServe."""


@app.command()
def start(
    archives: Annotated[list[Path], typer.Argument(help="Model archives, all in one folder.")],
    startup_seconds: Annotated[float, typer.Option(help="How long starting may take.")] = 120.0,
    run: Annotated[
        str,
        typer.Option(
            help="Run this shell command once the server is ready, then stop and exit as it did. It "
            "finds EIDETIC_URL, EIDETIC_KEY, EIDETIC_MODEL and EIDETIC_REQUEST in its environment."
        ),
    ] = "",
) -> None:
    """Serve ARCHIVES in the foreground until Ctrl-C or SIGTERM, then leave nothing behind."""
    for number in STOP_SIGNALS:
        signal.signal(number, _interrupt)
    try:
        status = _serve([read_archive(path) for path in archives], startup_seconds, run)
    except KeyboardInterrupt:
        typer.echo("stopped")
    else:
        raise typer.Exit(status)


def _serve(archives: list[Archive], startup_seconds: float, run: str) -> int:
    console = Console()
    with ExitStack() as stack:
        with console.status("starting TorchServe"):
            server = _start(stack, archives, startup_seconds)
        if run:
            return _run(run, _told_about(server, archives[0]))
        announce(console, archives, server.ports, server.keys()["inference"])
        while server.running:
            time.sleep(0.2)
        raise ServingError(f"TorchServe ended by itself:\n{server.log_tail()}")


def _run(command: str, environment: dict[str, str]) -> int:
    """Run a shell command in a process group of its own, which never outlives this program."""
    process = subprocess.Popen(command, shell=True, env=environment, start_new_session=True)
    try:
        return process.wait()
    finally:
        end_group(process)


def _told_about(server: TorchServe, archive: Archive) -> dict[str, str]:
    """The environment of a command that is to send requests to the server."""
    return {
        **os.environ,
        "EIDETIC_URL": server.ports.inference_url,
        "EIDETIC_KEY": server.keys()["inference"],
        "EIDETIC_MODEL": archive.name,
        "EIDETIC_REQUEST": json.dumps(example_request(archive)),
    }


def _start(stack: ExitStack, archives: list[Archive], seconds: float) -> TorchServe:
    """Start and wait; once more on other ports if another program took one in between."""
    for prefer_usual in (True, False):
        server = stack.enter_context(TorchServe(archives, free_ports(prefer_usual=prefer_usual)))
        try:
            wait_until_ready(server, archives, seconds).close()
            return server
        except ServingError:
            port_taken = "Address already in use" in server.log_tail(200)
            server.stop()
            if not (prefer_usual and port_taken):
                raise
    raise AssertionError("unreachable")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """The first signal begins the stop; those that follow must not break it off half-way."""
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        app()
    except (ServingError, ArchiveError) as error:
        typer.secho(f"error: {error}", err=True, fg="red")
        raise SystemExit(1) from None
