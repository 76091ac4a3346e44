"""One engine on a home folder, from its start until it serves what ``state.json`` says."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from eidetic_runtime.device import usable_cores
from eideticnet.serving.default_engine import default_engine
from eideticnet.serving.deploys.connection import Connection, Timeouts, connect
from eideticnet.serving.deploys.probes import Prober
from eideticnet.serving.deploys.reconcile import settle
from eideticnet.serving.edge.options import EdgeOptions
from eideticnet.serving.edge.process import Edge
from eideticnet.serving.engine import Engine, Process, Setup
from eideticnet.serving.errors import ServingError, Unavailable
from eideticnet.serving.home.addresses import Network, Ports, reachable
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.running import Keys, Profile, Running
from eideticnet.serving.home.state import State
from eideticnet.serving.supervise.ports import free_ports

_ENDING_SECONDS = 10.0
"""An engine that ends, because a port was taken, closes its other ports first and says why last."""


def fitting(workers: int) -> tuple[int, list[str]]:
    """``workers``, or as many as there are cores, with a note in that case: each takes one at least."""
    most = usable_cores()
    if workers <= most:
        return workers, []
    return most, [f"{workers} workers are more than the {most} cores that they may use: {most} are started"]


@dataclass(frozen=True)
class ServerOptions:
    """How to serve: ``keys`` is where the tokens go, ``record`` how many requests are kept; after
    ``silence_seconds`` without an answer the engine is started again. ``ports``: those asked for, by use.
    ``trusted``: as of ``Policy``; ``compile``: as of ``Running``."""

    engine: Engine = field(default_factory=default_engine)
    edge: EdgeOptions | None = None
    network: Network = field(default_factory=Network)
    ports: Mapping[str, int] = field(default_factory=dict)
    workers: int = 1
    profile: Profile = "throughput"
    allow_torch: bool = False
    compile: bool = False
    trusted: tuple[str, ...] = ()
    record: int = 0
    keys: Path | None = None
    startup_seconds: float = 120.0
    stop_seconds: float = 10.0
    silence_seconds: float = 30.0


@dataclass(frozen=True)
class Launched:
    """An engine that serves, and how it is reached."""

    process: Process
    server: Connection


@contextmanager
def launched(
    home: Home, options: ServerOptions, ports: Ports, edge: Edge | None = None
) -> Iterator[Launched]:
    """An engine that serves what the home's state says, behind the ``edge`` if there is one, and then on
    loopback and any ports. ``server.json`` tells of it.

    ``Unavailable`` if something of that is not there; any other ``ServingError`` is the engine's fault."""
    engine, variables, timeouts = options.engine, _variables(home, options), Timeouts(options.startup_seconds)
    setup = Setup(home, options.network, ports, variables, options.keys or home.keys, home.header, room(home))
    if edge is not None:
        inner = free_ports(prefer_usual=False)
        keys, header = edge.engine_keys
        setup = Setup(home, Network(), inner, variables, keys, header, room(home), edge.waiting)
    with engine.start(setup) as process:
        running = _described(options, setup, process)
        process.ready(running, options.startup_seconds)
        with connect(home, running, timeouts, engine) as server:
            try:
                settle(server, server.state())
            except Unavailable:
                raise
            except ServingError as error:
                tail = process.last_words(_ENDING_SECONDS)
                raise ServingError(f"{error}; the end of {engine.name}'s log:\n{tail}") from error
            if edge is None:
                running.write(home.running)
                yield Launched(process, server)
                return
            edge.pass_to(setup.ports, Keys.read(setup.keys))
            public = replace(setup, network=options.network, ports=ports, keys=edge.keys)
            running = _described(options, public, process)
            with Prober(running.inference, edge.keys, verify=edge.trusted) as prober:
                running.write(home.running)
                yield Launched(process, replace(server, running=running, prober=prober))


def room(home: Home) -> int:
    """Bytes of the archives that are to be unpacked."""
    defaults = [model.default for model in State.known(home.state).models.values()]
    try:
        return sum((home.store / version.file).stat().st_size for version in defaults)
    except OSError as error:
        raise Unavailable(f"an archive is gone: {error}") from error


def _variables(home: Home, options: ServerOptions) -> dict[str, str]:
    """What the handler finds in its environment."""
    found = {
        "PROMETHEUS_MULTIPROC_DIR": str(home.metrics.resolve()),
        "EIDETIC_WORKERS": str(options.workers),
        "EIDETIC_LOG": str(home.logs.resolve() / "requests.jsonl"),
    }
    if options.compile:
        found["EIDETIC_COMPILED"] = str(home.compiled.resolve())
    if options.record:
        found |= {"EIDETIC_RECORD": str(options.record), "EIDETIC_RECORDS": str(home.rings.resolve())}
    return found


def _described(options: ServerOptions, setup: Setup, process: Process) -> Running:
    network, ports = setup.network, setup.ports
    inside, outside = reachable(network.management_host), reachable(network.host)
    return Running(
        pid=os.getpid(),
        frontend=process.pid,
        folder=str(process.folder),
        inference=network.inference_url(ports),
        management=network.management_url(ports),
        control=f"http://{inside}:{ports.control}",
        grpc_inference=f"{outside}:{ports.grpc_inference}",
        grpc_management=f"{inside}:{ports.grpc_management}",
        keys=str(setup.keys.resolve()),
        certificate=str(network.certificate.resolve()) if network.certificate else None,
        workers=options.workers,
        profile=options.profile,
        allow_torch=options.allow_torch,
        engine=options.engine.name,
        edge=f"HAProxy {options.edge.binary.version}" if options.edge else None,
        compile=options.compile,
    )
