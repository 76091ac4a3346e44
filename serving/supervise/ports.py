"""Which ports a server takes: those asked for, else those that it had, else the usual ones.

One that was asked for and is taken is an error; any other moves alone.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from contextlib import ExitStack

from eideticnet.serving.errors import ServingError, Unavailable
from eideticnet.serving.home.addresses import Network, Ports

USUAL = Ports(inference=8080, management=8081, grpc_inference=7070, grpc_management=7071, control=8083)
_INFERENCE = ("inference", "grpc_inference")
OPTIONS = {
    "inference": "--http-port",
    "management": "--management-port",
    "grpc_inference": "--grpc-port",
    "control": "--control-port",
}
"""By use, what asks for a port."""


def free_ports(
    network: Network = Network(),
    before: Ports | None = None,
    *,
    asked: Mapping[str, int] = {},
    prefer_usual: bool = True,
) -> Ports:
    """For each use the port that is ``asked`` for, or else that of ``before``, the usual one, or any that is
    free. ``ServingError`` where one that is asked for can't be had."""
    wanted = [ports.model_dump() for ports in (before, USUAL) if ports and prefer_usual]
    found: dict[str, int] = {}
    with ExitStack() as held:  # until all are chosen, so that none is chosen twice
        for use, port in asked.items():
            if port in found.values():
                raise ServingError(f"{OPTIONS[use]} {port}: another option asks for that port too")
            found[use] = _asked(held, network, use, port)
        for use in Ports.model_fields.keys() - asked.keys():
            others = [ports[use] for ports in wanted if ports[use] not in asked.values()]
            found[use] = _bound(held, _host(network, use), [*others, 0])
    return Ports(**found)


def _asked(held: ExitStack, network: Network, use: str, port: int) -> int:
    try:
        return _bound(held, _host(network, use), [port])
    except Unavailable as error:
        taken = getattr(error.__cause__, "errno", None) == errno.EADDRINUSE
        why = f"port {port} is taken: end what listens there" if taken else str(error)
        raise ServingError(f"{OPTIONS[use]} {port}: {why}, or ask for another port") from None


def check_hosts(network: Network) -> None:
    """``ServingError`` where this machine can't listen at an address of ``network``."""
    for host in {network.host, network.management_host}:
        with ExitStack() as held:
            _bound(held, host, [0])


def taken(ports: Ports, network: Network) -> list[int]:
    """Those of the engine's ports that another program has."""
    found = []
    for use, port in ports.model_dump(exclude={"control"}).items():
        with ExitStack() as held:
            try:
                _bound(held, _host(network, use), [port])
            except Unavailable:
                found.append(port)
    return found


def moved(ports: Ports) -> list[str]:
    """Notes about ports that are not the usual ones."""
    usual = USUAL.model_dump()
    return [
        f"{use.replace('_', ' ')} is on port {port}: {usual[use]} was taken, or another asked for"
        for use, port in ports.model_dump().items()
        if port != usual[use]
    ]


def _host(network: Network, use: str) -> str:
    return network.host if use in _INFERENCE else network.management_host


def _bound(held: ExitStack, host: str, ports: list[int]) -> int:
    """The first free one of ``ports``; 0 means any."""
    problem = OSError()
    for port in ports:
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            found = held.enter_context(socket.socket(family))
            if port:  # connections that ended a moment ago don't matter
                found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
        except OSError as error:
            problem = error
        else:
            return int(found.getsockname()[1])
    raise Unavailable(f"no port can be had at {host}: {problem.strerror}") from problem
