"""Start and stop the servers that are compared."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.client import Target
from eideticnet.export.archive.reader import read_archive
from eideticnet.serving.home.running import Keys, Running
from eideticnet.serving.processes.groups import end_group

BENCHMARKS = Path(__file__).parents[1]
EIDETIC = str(Path(sys.executable).with_name("eidetic"))
PEERS_PYTHON = BENCHMARKS.parent / ".venv-peers" / "bin" / "python"
_START_SECONDS = 180.0  # of Ray on a busy machine


@dataclass(frozen=True)
class Ours:
    """This project's server: where it takes predictions, and its home folder."""

    target: Target
    home: Path
    started: float


@contextmanager
def ours(
    archive: Path,
    home: Path,
    *options: str,
    variables: Mapping[str, str] | None = None,
    seconds: float = _START_SECONDS,
) -> Iterator[Ours]:
    """``eidetic serve`` in an environment of ``variables``, or of this process, which may take ``seconds`` to
    start; ``started`` is when it was called (``time.perf_counter``)."""
    command = [EIDETIC, "serve", str(archive), "--home", str(home), *options]
    started = time.perf_counter()
    with (home.parent / f"{home.name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=BENCHMARKS.parent, env=variables, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait(lambda: (home / "server.json").exists(), process, seconds)
        running = Running.read(home / "server.json")
        header = f"Authorization: Bearer {Keys.read(Path(running.keys)).inference}"
        port = int(running.inference.rpartition(":")[2])
        path = f"/predictions/{read_archive(archive).name}"
        yield Ours(Target(port, path, (header,), process.pid), home, started)
    finally:
        process.terminate()
        process.wait(_START_SECONDS)


@contextmanager
def peer(name: str, graph: Path, *, json: bool) -> Iterator[Target]:
    """``mosec`` or ``fastapi`` with the graph."""
    port = _free_port()
    options = [f"--port={port}", "--address=127.0.0.1", "--timeout=30000"] if name == "mosec" else []
    variables = {
        "EIDETIC_GRAPH": str(graph),
        "EIDETIC_JSON": str(int(json)),
        "EIDETIC_PORT": str(port),
        "PYTHONPATH": str(BENCHMARKS.parent),
        "OMP_NUM_THREADS": "1",
    }
    command = [str(PEERS_PYTHON), "-m", f"benchmarks.peers.{name}_server", *options]
    process = subprocess.Popen(command, env=os.environ | variables, start_new_session=True)
    try:
        _wait(lambda: _listens(port), process)
        yield Target(port, "/inference", process=process.pid)
    finally:
        end_group(process)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def _wait(
    ready: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = _START_SECONDS
) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"did not start: {process.args!r}")
        time.sleep(0.02)
