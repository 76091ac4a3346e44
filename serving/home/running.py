"""``server.json``: a running server, as the other commands find it, and how one is stopped from outside."""

from __future__ import annotations

import os
import signal
import ssl
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from eideticnet.files import UnreadableError, open_regular, read_regular
from eideticnet.serving.errors import ServingError, Unavailable
from eideticnet.serving.home.files import LARGEST, JsonFile, write_whole
from eideticnet.serving.home.home import Home

Profile = Literal["throughput", "latency"]
"""Whether a lone request may wait for others, to be answered with them in one batch."""
_PAUSE_SECONDS = 0.1


class Keys(JsonFile):
    """The server's tokens; there may be new ones at each start."""

    model_config = ConfigDict(hide_input_in_errors=True)

    inference: str = Field(repr=False)
    management: str = Field(repr=False)

    def keep(self, file: Path, header: Path) -> None:
        """See that clients find these in ``file``, and the first in ``header`` as a header of HTTP, which
        ``curl -H @FILE`` sends, so that no log shows it. ``Unavailable`` where they can't be written."""
        line = f"Authorization: Bearer {self.inference}\n".encode()
        with suppress(ServingError, OSError):
            if (Keys.read(file), read_regular(header, LARGEST)) == (self, line):
                return
        self.write(file, mode=0o600)
        write_whole(header, line, mode=0o600)


class Running(JsonFile):
    """``pid`` is the supervisor's, ``frontend`` the engine's and that of its process group, ``folder``
    its private one. ``certificate`` is there where TLS is on. ``engine`` is what it is called, "" for that of
    servers before there were several. ``compile``: .pt2 graphs, before they are loaded. ``edge`` says what
    stands in front."""

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
    engine: str = ""
    compile: bool = False
    edge: str | None = None

    def verify(self) -> ssl.SSLContext | bool:
        return trust(self.certificate)


def trust(certificate: str | None) -> ssl.SSLContext | bool:
    """How a client on this machine checks a server: by its very certificate, for any host that it names."""
    if certificate is None:
        return True
    try:
        open_regular(Path(certificate)).close()
    except UnreadableError as error:
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
        raise ServingError(f"no server runs in {home.root}; eidetic serve --home {home.root}")
    pid, since = home.holder()
    running = Running.read(home.running) if home.running.exists() else None
    if running is None or pid not in (0, running.pid):  # which a server that was killed has left
        raise Starting(home, pid, since)
    return running


def stop_server(home: Home, seconds: float) -> int:
    """SIGTERM to the supervisor of a server that runs or is starting, whose number is returned;
    ``ServingError`` if there is none, or it still serves after ``seconds``."""
    try:
        pid = find(home).pid
    except Starting as starting:
        pid = starting.pid
    if not pid or not _serves(home, pid):
        raise ServingError(
            f"process {pid}, which serves in {home.root}, is in another container or account: stop it there"
        )
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while home.served():
        if time.monotonic() > deadline:
            raise ServingError(f"process {pid} still serves after {seconds:.0f} s")
        time.sleep(_PAUSE_SECONDS)
    return pid


def _serves(home: Home, pid: int) -> bool:
    """Whether the process of that number here is the one that holds the home's lock: a container has
    numbers of its own."""
    if not Path("/proc/self/fd").exists():
        return True
    try:
        return home.server_lock.resolve() in {file.resolve() for file in Path(f"/proc/{pid}/fd").iterdir()}
    except OSError:
        return False
