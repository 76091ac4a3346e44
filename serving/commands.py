"""The commands of a server: ``serve``, ``deploy``, ``rollback``, ``remove``, ``status``, ``stop``."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from eideticnet.client.command import DEFAULT_HOME, HomeFolder
from eideticnet.client.options import LONGEST
from eideticnet.errors import MissingExtraError
from eideticnet.export.archive.signature import read_trusted
from eideticnet.export.errors import ArchiveError
from eideticnet.export.files import check_writable
from eideticnet.export.proof.options import MaxDrop, RoutingData
from eideticnet.export.proof.verify import MAX_DROP
from eideticnet.serving.default_engine import DEFAULT, HEAP_MEGABYTES, NAME, Named, engine_named
from eideticnet.serving.deploys.connection import Connection, Timeouts, connect
from eideticnet.serving.deploys.deploy import DeployReport, DeployStep
from eideticnet.serving.deploys.deploy import deploy as deploy_steps
from eideticnet.serving.deploys.deploy import remove as remove_steps
from eideticnet.serving.deploys.deploy import rollback as rollback_steps
from eideticnet.serving.deploys.policy import Policy
from eideticnet.serving.deploys.recording import read as read_recording
from eideticnet.serving.deploys.shadow import ShadowPolicy
from eideticnet.serving.edge.options import CONNECTIONS_OF_A_CLIENT, edge_for
from eideticnet.serving.edge.options import check as check_edge
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.addresses import HOST, Network
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.running import Profile, Starting, find, stop_server
from eideticnet.serving.home.state import State
from eideticnet.serving.home.store import opened, remove_unneeded
from eideticnet.serving.show import announce, heedless, show_status, show_step, status_json
from eideticnet.serving.supervise.launch import ServerOptions, fitting
from eideticnet.serving.supervise.ports import OPTIONS, check_hosts
from eideticnet.serving.supervise.start import page_beside, prepared, run_beside, started
from eideticnet.signals import heed, unhurried

NOT_RUNNING = 3


Name = Annotated[str, typer.Option("--name", help="The model; default: the only one there is.")]


def _seconds(value: float) -> float:
    if not 0 <= value <= LONGEST:  # which NaN is not
        raise typer.BadParameter(f"{value} is no time to wait; expected seconds from 0 to {LONGEST:.0f}")
    return value


def _wait(help: str) -> Any:
    return typer.Option(callback=_seconds, help=help)


ReadySeconds = Annotated[float, _wait("How long the new version may take until it answers.")]
DrainSeconds = Annotated[float, _wait("How long the old version may finish what it has begun.")]
StopSeconds = Annotated[float, _wait("How long requests may take to end at the stop.")]
SilenceSeconds = Annotated[float, _wait(f"{NAME} is started again after so long without an answer.")]
Run = Annotated[
    str,
    typer.Option(
        help="Run this shell command once the server is ready, then stop and exit as it did. It finds "
        "EIDETIC_URL, _GRPC, _KEYS, _MODEL, _EXAMPLE, _INPUT and EIDETIC_HOME in its environment."
    ),
]
Port = Annotated[
    int | None, typer.Option(min=1, max=65535, help="Default: the one it had, the usual one, or a free one.")
]
Signers = Annotated[
    list[Path],
    typer.Option(
        metavar="PEM",
        help="From now on nothing is served here without a signature (eidetic sign) of this public key, or "
        "of one that this certificate stands behind. Several: any will do. Earlier ones are forgotten.",
    ),
]
MOST_RECORDED = 1_000_000
"""Instances of each worker, whose room on the disk is taken at once."""


def serve(
    archives: Annotated[
        list[Path],
        typer.Argument(
            metavar="ARCHIVE", help="Archives of models that are new here; none to go on as before."
        ),
    ] = [],  # noqa: B006
    home: HomeFolder = DEFAULT_HOME,
    engine: Annotated[Named, typer.Option(help="What answers; ray also on many machines.")] = DEFAULT,
    address: Annotated[str, typer.Option(help="A Ray cluster; default: a Ray of this machine.")] = "",
    most_workers: Annotated[
        int, typer.Option(min=0, help="Ray may start so many where requests wait; default: WORKERS.")
    ] = 0,
    record: Annotated[
        int, typer.Option(min=0, max=MOST_RECORDED, help="Each worker keeps its last N requests, in a ring.")
    ] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes of each version.")] = 1,
    profile: Annotated[Profile, typer.Option(help="latency: no request waits for others.")] = "throughput",
    keys: Annotated[Path | None, typer.Option(help="Where the tokens are written; default: in HOME.")] = None,
    host: Annotated[str, typer.Option(help="Address for predictions.")] = HOST,
    management_host: Annotated[str, typer.Option(help="Address of management, readiness, metrics.")] = HOST,
    http_port: Port = None,
    management_port: Port = None,
    grpc_port: Port = None,
    control_port: Port = None,
    edge: Annotated[
        bool | None,
        typer.Option(
            "--edge/--no-edge", help="HAProxy in front; default: where others than this machine can ask."
        ),
    ] = None,
    haproxy: Annotated[
        Path | None, typer.Option(help="The program; default: the system's, or a wheel's.")
    ] = None,
    cors: Annotated[
        list[str], typer.Option(metavar="ORIGIN", help="Pages from there may ask (at the edge); * is any.")
    ] = [],  # noqa: B006
    client_connections: Annotated[
        int | None, typer.Option(min=1, help=f"Most of one client, {CONNECTIONS_OF_A_CLIENT} if not said.")
    ] = None,
    allow_wheel_tls: Annotated[
        bool,
        typer.Option("--allow-wheel-tls", help="TLS for others with a wheel's OpenSSL, which gets no fixes."),
    ] = False,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate, which switches TLS on.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM private key of it.")] = None,
    allow_torch: Annotated[
        bool,
        typer.Option("--allow-torch", help="Also archives of TorchScript and .pt2, which can run any code."),
    ] = False,
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile .pt2 graphs for this machine's CPU before they are loaded, which takes a C++ "
            "compiler half a minute each and more. Needs --allow-torch.",
        ),
    ] = False,
    require_signature: Signers = [],  # noqa: B006
    replace: Annotated[
        bool,
        typer.Option("--replace", help="An archive that is new here replaces its model, without a proof."),
    ] = False,
    java_heap: Annotated[int, typer.Option(min=64, help="Megabytes of Java's heap.")] = HEAP_MEGABYTES,
    startup_seconds: Annotated[float, _wait("How long starting may take.")] = 120.0,
    stop_seconds: StopSeconds = 10.0,
    silence_seconds: SilenceSeconds = 30.0,
    demo: Annotated[bool, typer.Option("--demo", help="Also start the page of eidetic demo.")] = False,
    run: Run = "",
) -> None:
    """Serve archives until Ctrl-C or SIGTERM.

    In the foreground; nothing is left behind but HOME.
    """
    if (tls_cert is None) != (tls_key is None):
        raise ServingError("--tls-cert and --tls-key go together")
    if compile and not allow_torch:
        raise ServingError("--compile is for .pt2 archives, which --allow-torch lets in: give both")
    if demo and find_spec("gradio") is None:
        raise MissingExtraError("eidetic serve --demo needs gradio: pip install 'eideticnet[demo]'")
    chosen = engine_named(engine, java_heap, address, most_workers)
    network = Network(host, management_host, tls_cert, tls_key)
    front = edge_for(
        network,
        edge,
        haproxy=haproxy,
        cors=cors,
        connections=client_connections,
        wheel_tls=allow_wheel_tls,
    )
    said = chosen.check(Network() if front else network)
    said += [f"the edge is {front.binary}", *check_edge(network)] if front else []
    check_hosts(network)
    _check_keys(keys)
    workers, notes = (workers, []) if address else fitting(workers)
    for note in [*notes, *said]:
        typer.echo(note, err=True)
    asked = zip(OPTIONS, (http_port, management_port, grpc_port, control_port), strict=True)
    options = ServerOptions(
        engine=chosen,
        edge=front,
        network=network,
        ports={use: port for use, port in asked if port is not None},
        workers=workers,
        profile=profile,
        allow_torch=allow_torch,
        compile=compile,
        trusted=_trusted(require_signature),
        record=record,
        keys=keys,
        startup_seconds=startup_seconds,
        stop_seconds=stop_seconds,
        silence_seconds=silence_seconds,
    )
    if callable(signal.getsignal(signal.SIGHUP)):  # a terminal that closes, or logrotate:
        signal.signal(signal.SIGHUP, lambda *_: None)  # the writers of logs that were moved begin new ones
    heed(signal.SIGINT)
    with heedless(), unhurried():
        try:
            status = _serve(Home(home), archives, options, replace, demo, run)
        except KeyboardInterrupt:
            typer.echo("stopped")
        else:
            raise typer.Exit(status)


def _check_keys(keys: Path | None) -> None:
    """``ServingError`` where the tokens can't be written to ``keys``."""
    if keys is None:
        return
    if keys.is_dir():
        raise ServingError(f"--keys {keys} is a folder; expected the file that the tokens are written to")
    if keys.exists() and not keys.is_file():
        raise ServingError(f"--keys {keys} is no ordinary file, and is not replaced by one")
    try:
        keys.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServingError(f"--keys {keys} can't be written: {error.strerror}") from None
    check_writable(keys)


def _trusted(files: list[Path]) -> tuple[str, ...]:
    return tuple(pem for file in files for pem in read_trusted(file))


def _serve(
    home: Home, archives: list[Path], options: ServerOptions, replace: bool, demo: bool, run: str
) -> int:
    console = Console(emoji=False)
    if options.compile:
        typer.echo("graphs that are new here are compiled first: half a minute each, and more", err=True)
    with prepared(home, archives, options, replace=replace) as notes:
        for note in notes:
            console.print(note, markup=False)
        starting = console.status(f"starting {options.engine.name}")
        starting.start()
        with started(home, options) as supervisor:
            starting.stop()
            if not run:
                announce(console, supervisor.server, supervisor.ports)
            with page_beside(supervisor) if demo else nullcontext() as page:
                if run:
                    return run_beside(supervisor, run, page)
                supervisor.run(beside=page or ())
    return 0


def stop(
    home: HomeFolder = DEFAULT_HOME,
    seconds: Annotated[float, _wait("How long to wait for its end.")] = 60.0,
) -> None:
    """Stop the server.

    The one that runs or is starting in HOME, after it has answered what it has begun.
    """
    typer.echo(f"stopped process {stop_server(Home(home), seconds)}")


def status(
    home: HomeFolder = DEFAULT_HOME,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show models, versions, workers and queues.

    Exit status 3 if no server runs in HOME, or it still starts.
    """
    place = Home(home)
    try:
        running = find(place)
    except Starting as starting:
        found = status_json(State.load(place.state), None, {}, starting)
    except ServingError:
        found = status_json(State.load(place.state), None, {})
    else:
        with connect(place, running) as server:
            found = status_json(server.state(), running, server.management.models())
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        show_status(Console(emoji=False), found)
    if found["running"] is None:
        raise typer.Exit(NOT_RUNNING)


def deploy(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="The new version's archive.")],
    home: HomeFolder = DEFAULT_HOME,
    name: Annotated[str, typer.Option(help="The model that the archive must be of; default: any.")] = "",
    new_model: Annotated[
        bool, typer.Option("--new-model", help="Serve a model that is new here, beside those there are.")
    ] = False,
    shadow: Annotated[
        Path | None,
        typer.Option(help="A recording, or rings: both versions answer, and it is told how they differ."),
    ] = None,
    max_shadow_changes: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Refuse if more than this share of them gets another answer."),
    ] = None,
    routing_data: RoutingData = None,
    max_drop: MaxDrop = MAX_DROP,
    accept_unmeasured_routing: Annotated[
        bool,
        typer.Option("--accept-unmeasured-routing", help="Deploy although routing could not be measured."),
    ] = False,
    tolerate_not_comparable: Annotated[
        bool, typer.Option("--tolerate-not-comparable", help="Deploy although nothing can be proven.")
    ] = False,
    require_signature: Signers = [],  # noqa: B006
    ready_seconds: ReadySeconds = 120.0,
    drain_seconds: DrainSeconds = 30.0,
) -> None:
    """Let ARCHIVE take over on the running server.

    It has to be proven to forget nothing, or be of another model than those that are served (--new-model).
    Anything wrong, and what is served goes on as if nothing had been tried.
    """
    if max_shadow_changes is not None and shadow is None:
        raise ServingError("--max-shadow-changes needs --shadow FILE")
    shadowing = ShadowPolicy(shadow, max_shadow_changes) if shadow else None
    accepted = routing_data, max_drop, accept_unmeasured_routing, tolerate_not_comparable, new_model
    policy = Policy(*accepted, _trusted(require_signature))
    steps = partial(deploy_steps, source=archive, policy=policy, shadowing=shadowing, name=name)
    _carry_out("deploy", Home(home), Timeouts(ready_seconds, drain_seconds), steps)


def record(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new .safetensors file.")],
    home: HomeFolder = DEFAULT_HOME,
    name: Name = "",
) -> None:
    """Write the requests that a server recorded to OUT.

    Those in the rings of `serve --record`, as a recording for `deploy --shadow` and `--routing-data`.
    """
    if out.suffix != ".safetensors" or out.exists():
        raise ServingError(f"{out} is no new .safetensors file")
    place = Home(home)
    state = State.load(place.state)
    name = state.only(name)
    archive = opened(name, state.models[name].default, place.store, allow_torch=True)  # of which nothing runs
    found = read_recording(place.rings, name, archive.bundle.input)
    found.write(out)
    typer.echo(f"{len(found)} requests to {name} in {out}")


def rollback(
    home: HomeFolder = DEFAULT_HOME,
    name: Name = "",
    ready_seconds: ReadySeconds = 120.0,
    drain_seconds: DrainSeconds = 30.0,
) -> None:
    """Let the version before take over again."""
    steps = partial(rollback_steps, name=name)
    _carry_out("rollback", Home(home), Timeouts(ready_seconds, drain_seconds), steps)


def remove(
    name: Annotated[str, typer.Option(help="The model.")],
    home: HomeFolder = DEFAULT_HOME,
    drain_seconds: DrainSeconds = 30.0,
) -> None:
    """Serve a model no more.

    It answers what it has begun, and goes. A later archive of it is a new model (deploy --new-model). Works
    on a server that runs, and on the folder of one that doesn't. A server's last model stays.
    """
    place = Home(home)
    if place.served():
        _carry_out("remove", place, Timeouts(drain=drain_seconds), partial(remove_steps, name=name))
        return
    State.load(place.state).only(name)  # before a lock is made in a folder that is no home
    with place.held(), place.changing():
        state = State.load(place.state)
        wanted = state.without(state.only(name))
        wanted.write(place.state)
        remove_unneeded(place.store, wanted)
    typer.echo(f"{name} is not to be served any more in {home}")


def _carry_out(
    what: str, home: Home, timeouts: Timeouts, steps: Callable[[Connection], Generator[DeployStep]]
) -> None:
    """Take the steps on the running server and show them; the report is kept however it ends, and its path
    printed."""
    with connect(home, find(home), timeouts) as server:
        console, report, outcome = Console(stderr=True, emoji=False), DeployReport(what), "interrupted"
        try:
            with closing(steps(server)) as taken, heedless(), unhurried():
                for step in taken:
                    report.add(step.name, step.text, step.found)
                    show_step(console, step, report.seconds)
            outcome = "done"
        except (ServingError, ArchiveError) as error:
            outcome = f"failed: {error}"
            raise
        finally:
            with heedless(), unhurried():
                _keep(report, home.reports, outcome)


def _keep(report: DeployReport, folder: Path, outcome: str) -> None:
    """Write the report. That it can't be written is told, and changes nothing about what was done."""
    try:
        typer.echo(report.write(folder, outcome))
    except ServingError as error:
        typer.secho(f"warning: {outcome}, and the report is lost: {error}", err=True, fg="yellow")
