"""Two Ray nodes on one machine, each with a loopback address of its own, to lose one of them.

(127.0.0.1 itself does not do: Ray takes it for the address of the network card.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from eideticnet.serving.processes.folder import MARK, end_marked
from eideticnet.serving.processes.groups import owned
from eideticnet.serving.ray.settings import HERE, environment

HEAD, WORKER = "127.0.0.2", "127.0.0.3"
RAY = Path(sys.executable).with_name("ray")
_STORE = 100 << 20


@dataclass
class Raylets:
    """A cluster whose head is ``address``; ``variables`` are those of a driver that joins it."""

    address: str
    variables: Mapping[str, str]
    folder: Path
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def add(self, ip: str) -> None:
        """Start the node ``ip`` with room for two replicas."""
        head: list[str] = ["--head", f"--port={self.address.rpartition(':')[2]}", f"--temp-dir={self.folder}"]
        head += ["--include-dashboard=false"]
        command: list[str] = [str(RAY), "start", *(head if ip == HEAD else [f"--address={self.address}"])]
        command += [f"--node-ip-address={ip}", "--num-cpus=2", f"--object-store-memory={_STORE}"]
        mine = {**self.variables, **_ports(self.folder / ip[-1]), MARK: str(self.folder / ip[-1])}
        with (self.folder / f"{ip}.log").open("ab") as log:
            self.nodes[ip] = subprocess.Popen(
                owned([*command, "--include-log-monitor=false", "--disable-usage-stats", "--block"]),
                env=mine,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def remove(self, ip: str) -> None:
        """Kill all of a node at once, as a power cut would."""
        process = self.nodes.pop(ip)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        end_marked(self.folder / ip[-1])


def _ports(folder: Path) -> dict[str, str]:
    """What two nodes of one machine may not share."""
    folder.mkdir(exist_ok=True)
    found = environment(folder, {})
    own = ("RAY_SERVE_HAPROXY_", "RAY_SERVE_WORKER_")
    with socket.socket() as free:
        free.bind((WORKER, 0))
        found["RAY_SERVE_WORKER_PROXY_HTTP_PORT"] = str(free.getsockname()[1])
    with socket.socket() as free:
        free.bind((WORKER, 0))
        found["RAY_SERVE_WORKER_PROXY_GRPC_PORT"] = str(free.getsockname()[1])
    return {name: value for name, value in found.items() if name.startswith(own)}


@contextmanager
def raylets(variables: Mapping[str, str] = {}) -> Iterator[Raylets]:
    """Both nodes; nothing is left of them."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rl-", dir="/tmp")))
        with socket.socket() as free:
            free.bind((HEAD, 0))
            port = free.getsockname()[1]
        shared = environment(folder, variables)
        for here in ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", HERE):  # which put both nodes at 127.0.0.1
            del shared[here]
        cluster = Raylets(f"{HEAD}:{port}", shared, folder)
        try:
            for ip in (HEAD, WORKER):
                cluster.add(ip)
            yield cluster
        finally:
            for ip in list(cluster.nodes):
                cluster.remove(ip)
