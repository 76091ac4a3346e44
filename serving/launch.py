"""One TorchServe on a home folder, from its start until it serves what ``state.json`` says."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from eideticnet.serving.connection import Connection, Limits, connect
from eideticnet.serving.errors import ServingError, Unavailable
from eideticnet.serving.home import Home
from eideticnet.serving.management import ManagementError
from eideticnet.serving.process import TorchServe
from eideticnet.serving.ready import give_up, wait_for_keys
from eideticnet.serving.reconcile import settle
from eideticnet.serving.running import Profile, Running
from eideticnet.serving.settings import HEAP_MEGABYTES, YEAR_IN_MINUTES, Network, Ports, reachable
from eideticnet.serving.state import State
from eideticnet.serving.tokens import Tokens

_PAUSE_SECONDS = 0.05
_ENDING_SECONDS = 10.0
"""A TorchServe that ends, because a port was taken, closes its other ports first and says why last."""


@dataclass(frozen=True)
class Options:
    """How to serve: ``keys`` is where the tokens go, ``record`` how many requests are kept, ``heap``
    the megabytes of Java's heap; after ``silence_seconds`` without an answer TorchServe is started again.
    ``token_minutes``: how long it takes its own tokens for good. ``ports``: those asked for, by use."""

    network: Network = field(default_factory=Network)
    ports: Mapping[str, int] = field(default_factory=dict)
    workers: int = 1
    profile: Profile = "throughput"
    allow_torch: bool = False
    record: int = 0
    heap: int = HEAP_MEGABYTES
    keys: Path | None = None
    startup_seconds: float = 120.0
    stop_seconds: float = 10.0
    silence_seconds: float = 30.0
    token_minutes: int = YEAR_IN_MINUTES


@dataclass(frozen=True)
class Launched:
    """A TorchServe that serves, how it is reached, and its tokens."""

    torchserve: TorchServe
    server: Connection
    tokens: Tokens


@contextmanager
def launched(home: Home, options: Options, ports: Ports) -> Iterator[Launched]:
    """A TorchServe that serves what the home's state says. ``server.json`` tells of it.

    ``Unavailable`` if something of that is not there; any other ``ServingError`` is TorchServe's fault."""
    with TorchServe(
        [],
        ports,
        store=home.store.resolve(),
        log=home.logs / "torchserve.log",
        network=options.network,
        variables=_variables(home, options),
        heap=options.heap,
        root=home.run,
        room=room(home),
        token_minutes=options.token_minutes,
    ) as torchserve:
        running = _described(home, options, torchserve)
        wait_for_keys(torchserve, options.startup_seconds)
        tokens = Tokens(torchserve.key_file, options.token_minutes, Path(running.keys), home.header)
        Path(running.keys).parent.mkdir(parents=True, exist_ok=True)
        tokens.write()
        with connect(home, running, Limits(ready=options.startup_seconds)) as server:
            _wait_for_management(torchserve, server, options.startup_seconds)
            try:
                settle(server, server.state())
            except Unavailable:
                raise
            except ServingError as error:
                tail = torchserve.last_words(_ENDING_SECONDS)
                raise ServingError(f"{error}; the end of TorchServe's log:\n{tail}") from error
            running.write(home.running)
            yield Launched(torchserve, server, tokens)


def room(home: Home) -> int:
    """Bytes of the archives that are to be unpacked."""
    defaults = [model.default for model in State.known(home.state).models.values()]
    try:
        return sum((home.store / version.file).stat().st_size for version in defaults)
    except OSError as error:
        raise Unavailable(f"an archive is gone: {error}") from error


def _variables(home: Home, options: Options) -> dict[str, str]:
    """What the handler finds in its environment."""
    found = {
        "PROMETHEUS_MULTIPROC_DIR": str(home.metrics.resolve()),
        "EIDETIC_WORKERS": str(options.workers),
        "EIDETIC_LOG": str(home.logs.resolve() / "requests.jsonl"),
    }
    if options.record:
        found |= {"EIDETIC_RECORD": str(options.record), "EIDETIC_RECORDS": str(home.records.resolve())}
    return found


def _described(home: Home, options: Options, torchserve: TorchServe) -> Running:
    network, ports = options.network, torchserve.ports
    inside, outside = reachable(network.management_host), reachable(network.host)
    return Running(
        pid=os.getpid(),
        frontend=torchserve.pid,
        folder=str(torchserve.home),
        inference=network.inference_url(ports),
        management=network.management_url(ports),
        control=f"http://{inside}:{ports.control}",
        grpc_inference=f"{outside}:{ports.grpc_inference}",
        grpc_management=f"{inside}:{ports.grpc_management}",
        keys=str((options.keys or home.keys).resolve()),
        certificate=str(network.certificate.resolve()) if network.certificate else None,
        workers=options.workers,
        profile=options.profile,
        allow_torch=options.allow_torch,
    )


def _wait_for_management(torchserve: TorchServe, server: Connection, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            server.management.models()
            return
        except ManagementError as error:
            problem = f"{error} within {seconds:.0f} s"
        give_up(torchserve, deadline, problem)
        time.sleep(_PAUSE_SECONDS)
