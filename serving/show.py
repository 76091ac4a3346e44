"""What a person sees: the tasks and a request to paste, a server's status, a deploy's steps."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import datetime
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eideticnet.export.archive.reader import Archive
from eideticnet.export.archive.signature import fingerprint
from eideticnet.export.show import doubted
from eideticnet.export.show import show as show_proof
from eideticnet.serving.deploys.connection import Connection
from eideticnet.serving.deploys.deploy import DeployStep
from eideticnet.serving.deploys.probes import as_json, write_example
from eideticnet.serving.engine import HeldModel
from eideticnet.serving.home.addresses import Ports
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.running import Running, Starting
from eideticnet.serving.home.state import State
from eideticnet.serving.questions import example
from eideticnet.serving.supervise.ports import moved


class _Heedless:
    """A stream whose reader may be gone, or its disk full."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def heedless() -> Iterator[None]:
    """Nothing that is printed inside is worth the end of what goes on."""
    with ExitStack() as stack:
        for stream, redirect in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            if stream is not None:  # as it is where the file was closed
                stack.enter_context(redirect(_Heedless(stream)))
        yield


def task_table(archive: Archive) -> Table:
    """Tasks, held-out accuracies, neurons used and what an answer costs, as the bundle reports them."""
    table = Table(title=f"{archive.name} {archive.version} ({archive.bundle.format})")
    for heading in ("task", "classes"):
        table.add_column(heading)
    for heading in ("oracle accuracy", "routed accuracy", "neurons used"):
        table.add_column(heading, justify="right")
    if doubts := doubted(archive.bundle):
        table.add_column("training")
    for task in archive.tasks:
        used = f"{task.neurons} of {archive.bundle.neurons}"
        row = [_percent(task.report.oracle), _percent(task.report.routed), used]
        row += [EARLY] if task.name in doubts else []
        table.add_row(escape(task.name), escape(", ".join(task.classes)), *row)
    router = archive.bundle.router
    if router is not None or ROUTER in doubts:
        neurons = "" if router is None else str(router.neurons)
        table.add_row(ROUTER, "", "", "", neurons, *([EARLY] if ROUTER in doubts else []))
    if spent := archive.bundle.multiply_adds:
        total, plain = spent.tasks + spent.router, spent.plain
        share = f", {total / plain:.2f} of a plain network's {plain:,}" if plain else ""
        table.caption = f"{total:,} multiply-adds an answer{share}"
    return table


ROUTER, EARLY = "router", "ended too early"


def _percent(value: Any) -> str:
    return "-" if value is None else f"{100 * float(value):.1f} %"


_LONGEST_LINE = 4096
"""Characters of a request that a terminal takes in one line."""


def curl_command(archive: Archive, running: Running, home: Home) -> str:
    """A request that works when pasted into a shell; the token stays in its file, and so does an example
    that is too long for a line."""
    body = json.dumps({"data": as_json(example(archive))})
    kind, data = "application/json", f"-d {shlex.quote(body)}"
    if len(body) > _LONGEST_LINE:
        file = write_example(archive, home.example(archive.name)).resolve()
        kind, data = "application/x-npy", f"--data-binary @{shlex.quote(str(file))}"
    trusted = ["--cacert", shlex.quote(running.certificate)] if running.certificate else []
    return " ".join(
        [
            *("curl -sS", *trusted, f"-H @{shlex.quote(str(home.header.resolve()))}"),
            *(f"-H 'Content-Type: {kind}'", data),
            f"{running.inference}/predictions/{archive.name}",
        ]
    )


def announce(console: Console, server: Connection, ports: Ports) -> None:
    """Print the tables, and the request without line breaks that would spoil the pasting."""
    for name, model in server.state().models.items():
        archive = server.archive(name, model.default)
        console.print(task_table(archive))
        print(curl_command(archive, server.running, server.home))
    for note in moved(ports):
        console.print(note, highlight=False)
    where = f"serving on {server.running.inference}, control on {server.running.control}"
    console.print(f"\n{where}; Ctrl-C stops everything", highlight=False, soft_wrap=True)


def status_json(
    state: State,
    running: Running | None,
    held: Mapping[str, HeldModel],
    starting: Starting | None = None,
) -> dict[str, Any]:
    """What is served and what is meant to be, for programs."""
    models: dict[str, Any] = {}
    for name in sorted({*state.models, *held}):
        meant, there = state.models.get(name), held.get(name)
        versions = {
            version: {
                "default": there is not None and version == there.default,
                "workers": found.ready,
                "wanted_workers": found.wanted,
                "queue": found.pending,
            }
            for version, found in (there.versions.items() if there else ())
        }
        models[name] = {
            "default": meant.default.version if meant else None,
            "previous": meant.previous.version if meant and meant.previous else None,
            "versions": versions,
        }
    begun = {"pid": starting.pid, "since": starting.since} if starting else None
    return {
        "running": running.model_dump() if running else None,
        "starting": begun,
        "models": models,
        "trusted": [fingerprint(pem) for pem in state.trusted],
    }


def show_status(console: Console, status: Mapping[str, Any]) -> None:
    """The same as a table."""
    table = Table("model", "version", "default", "workers", "queue", "previous", box=None)
    for name, model in status["models"].items():
        previous = model["previous"] or "-"
        if not model["versions"]:
            table.add_row(name, model["default"], "", "not running", "", previous)
        for version, found in model["versions"].items():
            workers = f"{found['workers']} of {found['wanted_workers']}"
            default = "yes" if found["default"] else ""
            table.add_row(name, version, default, workers, str(found["queue"]), previous)
    console.print(table)
    if trusted := status["trusted"]:
        console.print(f"only archives signed by {' or '.join(trusted)} are served", highlight=False)
    running, starting = status["running"], status["starting"]
    where = "no server runs"
    if starting:
        since = datetime.fromtimestamp(starting["since"])
        where = f"a server is starting: process {starting['pid'] or 'unknown'}, since {since:%H:%M:%S}"
    if running:
        where = f"serving on {running['inference']}, gRPC on {running['grpc_inference']}, "
        where += f"control on {running['control']}, process {running['pid']}"
        where += f", behind {running['edge']}" if running["edge"] else ""
    console.print(where, highlight=False, soft_wrap=True)


def show_step(console: Console, step: DeployStep, seconds: float) -> None:
    """One step of a deploy, as soon as it was taken."""
    console.print(f"[dim]{seconds:6.1f} s[/]  {escape(step.text)}", highlight=False)
    if step.proof is not None:
        show_proof(step.proof)
