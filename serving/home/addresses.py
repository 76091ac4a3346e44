"""Where a server listens: its hosts, its ports, its certificate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eideticnet.serving.home.files import JsonFile

HOST = "127.0.0.1"
_ANY_HOST = {"0.0.0.0": HOST, "::": "[::1]"}


class Ports(JsonFile):
    """The ports of one server: four of its engine, and ``control`` of its supervisor."""

    inference: int
    management: int
    grpc_inference: int
    grpc_management: int
    control: int

    @property
    def inference_url(self) -> str:
        return f"http://{HOST}:{self.inference}"


@dataclass(frozen=True)
class Network:
    """Who can reach the server: the address that predictions are taken at, that of the management and
    control ports, and PEM files where TLS is on."""

    host: str = HOST
    management_host: str = HOST
    certificate: Path | None = None
    private_key: Path | None = None

    @property
    def scheme(self) -> str:
        return "https" if self.certificate else "http"

    def inference_url(self, ports: Ports) -> str:
        """Where this machine's own clients find the server."""
        return f"{self.scheme}://{reachable(self.host)}:{ports.inference}"

    def management_url(self, ports: Ports) -> str:
        return f"{self.scheme}://{reachable(self.management_host)}:{ports.management}"


def reachable(host: str) -> str:
    """An address that a client on this machine can connect to, for one that may mean all of them."""
    return _ANY_HOST.get(host, f"[{host}]" if ":" in host else host)
