"""A running HAProxy, told and asked over its socket."""

from __future__ import annotations

import csv
import socket
from collections.abc import Mapping
from pathlib import Path

from eideticnet.serving.edge.parts import ENGINE, PATIENT
from eideticnet.serving.errors import Unavailable

_SECONDS = 5.0
_SAID = ("New version created", "Transaction created", "Success", "Creating", "Done", "")


class Runtime:
    """Commands to the HAProxy that listens at ``path``. All raise ``Unavailable`` where it does not answer or
    does not do it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ask(self, command: str) -> str:
        """What it answers to one command, or to several with ";" between them."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_SECONDS)
                connection.connect(str(self._path))
                connection.sendall(f"{command}\n".encode())
                return b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode("utf-8", "replace")
        except OSError as error:
            raise Unavailable(f"HAProxy does not answer: {error}") from error

    def tell(self, *commands: str) -> None:
        """Commands that answer nothing, or with a word that they are done."""
        for command in commands:
            answer = self.ask(command).strip()
            if not all(
                line.strip().startswith(_SAID[:-1]) for line in answer.splitlines() if line.strip(". !")
            ):
                what = " ".join(command.split("\n", 1)[0].split()[:3])
                raise Unavailable(f"HAProxy did not do {what}: {answer[:300]}")

    def ready(self, backends: tuple[str, ...], server: str, others: tuple[str, ...] = ()) -> None:
        """Send what comes to ``backends`` to one of their servers, and nothing more to the ``others``."""
        self.tell(
            *(f"set server {name}/{server} state ready" for name in backends if server),
            *(
                f"set server {name}/{server} health up"
                for name in backends
                if name in PATIENT and server == ENGINE
            ),
            *(f"set server {name}/{other} state maint" for name in backends for other in others),
        )

    def move(self, addresses: Mapping[str, int]) -> None:
        """Let servers, "backend/server", be at these ports of loopback."""
        for server, port in addresses.items():
            answer = self.ask(f"set server {server} addr 127.0.0.1 port {port}")
            if "changed" not in answer and "no need" not in answer:
                raise Unavailable(f"HAProxy did not move {server}: {answer.strip()[:300]}")

    def replace_map(self, file: str, entries: Mapping[str, str]) -> None:
        """All of a map at once."""
        version = self.ask(f"prepare map {file}").strip().rpartition(" ")[2]
        if not version.isdigit():
            raise Unavailable(f"HAProxy has no map {file}: {version}")
        lines = "".join(f"{key} {value}\n" for key, value in entries.items())
        if lines:
            self.tell(f"add map @{version} {file} <<\n{lines}")
        self.tell(f"commit map @{version} {file}")

    def replace_certificate(self, file: str, pem: str) -> None:
        """What connections get from now on; those that there are go on."""
        lines = "\n".join(line for line in pem.splitlines() if line.strip())
        self.tell(f"set ssl cert {file} <<\n{lines}\n")
        self.tell(f"commit ssl cert {file}")

    def counters(self) -> list[dict[str, str]]:
        """One row for each front, back and server, by HAProxy's names of columns."""
        return list(csv.DictReader(self.ask("show stat").lstrip("# ").splitlines()))
