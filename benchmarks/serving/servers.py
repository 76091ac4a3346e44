"""Start and stop the servers that are compared."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.serving.client import Target
from export.archive import read_archive
from serving.process import TorchServe, end_group
from serving.ready import wait_until_ready
from serving.settings import free_ports

BENCHMARKS = Path(__file__).parents[1]
PEERS_PYTHON = BENCHMARKS.parent / ".venv-peers" / "bin" / "python"
_START_SECONDS = 60.0


@contextmanager
def ours(archive: Path) -> Iterator[Target]:
    """This project's server, as ``python -m serving start`` runs it."""
    model = read_archive(archive)
    with TorchServe([model], free_ports(prefer_usual=False)) as server:
        wait_until_ready(server, [model], _START_SECONDS).close()
        key = server.keys()["inference"]
        path = f"/predictions/{model.name}"
        yield Target(server.ports.inference, path, (f"Authorization: Bearer {key}",))


@contextmanager
def peer(name: str, graph: Path, *, json: bool) -> Iterator[Target]:
    """``mosec`` or ``fastapi`` with the graph."""
    port = _free_port()
    options = [f"--port={port}", "--address=127.0.0.1", "--timeout=30000"] if name == "mosec" else []
    variables = {
        "EIDETIC_GRAPH": str(graph),
        "EIDETIC_JSON": str(int(json)),
        "EIDETIC_PORT": str(port),
        "PYTHONPATH": str(BENCHMARKS),
        "OMP_NUM_THREADS": "1",
    }
    command = [str(PEERS_PYTHON), "-m", f"peers.{name}_server", *options]
    process = subprocess.Popen(command, env=os.environ | variables, start_new_session=True)
    try:
        _wait_for(port, process)
        yield Target(port, "/inference")
    finally:
        end_group(process)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} did not start")
