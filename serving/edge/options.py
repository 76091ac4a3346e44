"""Whether there is an edge, and what is asked of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from socket import getaddrinfo

from eideticnet.serving.edge.binary import Binary, find
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home import certificate
from eideticnet.serving.home.addresses import Network

CONNECTIONS_OF_A_CLIENT = 512
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")


@dataclass(frozen=True)
class EdgeOptions:
    """``cors``: the origins whose pages may ask, ``connections``: those that one client may have."""

    binary: Binary
    cors: tuple[str, ...] = ()
    connections: int = CONNECTIONS_OF_A_CLIENT


def edge_for(
    network: Network,
    wanted: bool | None = None,
    *,
    haproxy: Path | None = None,
    cors: Sequence[str] = (),
    connections: int | None = None,
    wheel_tls: bool = False,
) -> EdgeOptions | None:
    """The edge that ``network`` needs, or that is ``wanted``; None where there is to be none. ``wheel_tls``
    allows TLS beyond loopback with the wheel's OpenSSL. ``ServingError`` where it can't be had."""
    beyond = not all(map(_on_loopback, (network.host, network.management_host)))
    if not (beyond if wanted is None else wanted):
        if haproxy is not None or cors or connections is not None:
            raise ServingError("--haproxy, --cors and --client-connections are of the edge: add --edge")
        return None
    for origin in cors:
        if not _ORIGIN.fullmatch(origin):
            raise ServingError(f"--cors {origin} is no origin; expected one as https://example.org, or *")
    try:
        binary = find(haproxy)
    except ServingError as error:
        why = f"; {network.host} needs an edge unless --no-edge says otherwise" if wanted is None else ""
        raise ServingError(f"{error}{why}") from None
    if network.certificate and beyond and binary.wheel and not wheel_tls:
        raise ServingError(
            f"the wheel's HAProxy brings OpenSSL {binary.openssl}, which gets no more fixes: install the "
            "system's (apt install haproxy), or --allow-wheel-tls"
        )
    return EdgeOptions(binary, tuple(cors), connections or CONNECTIONS_OF_A_CLIENT)


def check(network: Network) -> list[str]:
    """Warnings about the certificate; ``ServingError`` where it can't be used."""
    if network.certificate and network.private_key:
        return certificate.check(network.certificate, network.private_key)
    return []


def _on_loopback(host: str) -> bool:
    try:
        found = {str(address[0]) for *_, address in getaddrinfo(host, None)}
    except OSError:
        return True  # which can't be listened at, as is said when it is tried
    return all(ip_address(each.partition("%")[0]).is_loopback for each in found)
