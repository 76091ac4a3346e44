"""What a replica of Ray Serve says to clients, without Ray: its application behind uvicorn, on a socket."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import uvicorn

from eidetic_runtime.reply import Reply, Row
from eideticnet.export.archive.reader import read_archive
from eideticnet.serving.ray.desired import Desired
from eideticnet.serving.ray.models import Held, Models
from eideticnet.serving.ray.web import Asked, application
from tests.support.waiting import until

TOKEN = "a token of tests"


class Replica:
    """Holds ``archives``, of which the first of a name is the default, and answers one request at a time.
    While ``open`` is not set nothing is answered."""

    def __init__(self, archives: Sequence[Path]) -> None:
        self.models, self.token = Models(lambda source: Path(source.archive).read_bytes()), ""
        models = dict[str, Any]()
        for archive in map(read_archive, archives):
            source = {"archive": str(archive.path), "sha256": sha256(archive.path.read_bytes()).hexdigest()}
            model = models.setdefault(archive.name, {"default": archive.version, "versions": {}})
            model["versions"][archive.version] = source
        self.models.bring_to(Desired.read({"models": models, "allow_torch": True}))
        assert not self.models.problems, self.models.problems
        self.token = sha256(TOKEN.encode()).hexdigest()
        self.asked: Asked
        self.open = asyncio.Event()
        self.open.set()

    async def answer(self, held: Held, row: Row) -> Reply:
        await self.open.wait()
        return held.answer([row])[0][0]


@contextmanager
def replica(archives: Sequence[Path]) -> Iterator[tuple[Replica, str]]:
    """A replica, and the URL at which it listens."""
    made = Replica(archives)
    config = uvicorn.Config(application(made), port=0, log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield made, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
