"""``server.json``: a running server, as the other commands find it."""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Literal

from eideticnet.export.errors import ArchiveError
from eideticnet.export.files import read_regular
from eideticnet.serving.errors import ServingError, Unavailable
from eideticnet.serving.home import Home
from eideticnet.serving.records import Record

Profile = Literal["throughput", "latency"]
BATCHING: dict[Profile, dict[str, int]] = {"throughput": {}, "latency": {"max_batch_delay": 0}}
"""What a profile overrides of the archive's batching: a lone request never waits, or may (ms)."""


class Keys(Record):
    """TorchServe's tokens, which it makes anew at each start."""

    inference: str
    management: str


class Running(Record):
    """``pid`` is the supervisor's, ``frontend`` TorchServe's and that of its process group, ``folder``
    its private one. ``certificate`` is there where TLS is on."""

    pid: int
    frontend: int
    folder: str
    inference: str
    management: str
    control: str
    grpc_inference: str
    grpc_management: str
    keys: str
    certificate: str | None
    workers: int
    profile: Profile
    allow_torch: bool

    def read_keys(self) -> Keys:
        return Keys.read(Path(self.keys))

    def verify(self) -> ssl.SSLContext | bool:
        return trust(self.certificate)


def trust(certificate: str | None) -> ssl.SSLContext | bool:
    """How a client on this machine checks a server: by its very certificate, whatever host that names."""
    if certificate is None:
        return True
    try:
        read_regular(Path(certificate)).close()
    except ArchiveError as error:
        raise Unavailable(f"the certificate can't be read: {error}") from None
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


class Starting(ServingError):
    """The process ``pid`` starts a server, ``since`` then, in Unix seconds."""

    def __init__(self, home: Home, pid: int, since: float) -> None:
        self.pid, self.since = pid, since
        who = f"process {pid or 'unknown'}, for {time.time() - since:.0f} s"
        super().__init__(f"a server is starting in {home.root} ({who}): wait until it answers")


def find(home: Home) -> Running:
    """The server that runs in ``home``; ``ServingError`` if there is none, ``Starting`` if there will be."""
    if not home.served():
        raise ServingError(
            f"no server runs in {home.root}; python -m eideticnet.serving start --home {home.root}"
        )
    pid, since = home.holder()
    running = Running.read(home.running) if home.running.exists() else None
    if running is None or pid not in (0, running.pid):  # which a server that was killed has left
        raise Starting(home, pid, since)
    return running
