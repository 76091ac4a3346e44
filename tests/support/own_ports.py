"""Ports for servers of tests: tests run in parallel, and what one server gives up for a moment, while its
engine is started again, no other may take."""

from __future__ import annotations

import socket
from functools import cache
from itertools import count
from pathlib import Path

from eideticnet.serving.home.addresses import Network, Ports
from eideticnet.serving.home.home import Home
from eideticnet.serving.supervise.ports import taken

_FIRST, _BLOCK, _BLOCKS = 12_000, 1000, 20
"""Up to 32,000: from 32,768 Linux gives ports to connections, and to who asks for any."""
_next = count()


@cache
def _block() -> tuple[int, socket.socket]:
    """The first port of a block that this process has alone, and what holds it until the process ends: a name
    that the kernel gives once in each network, and that leaves no file."""
    for number in range(_BLOCKS):
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0tests of eideticnet: ports {number}")
        except OSError:
            claim.close()
        else:
            return _FIRST + number * _BLOCK, claim
    raise RuntimeError(f"{_BLOCKS} test processes have all the ports")


def own_ports() -> Ports:
    """Five that nobody else gets."""
    first = _block()[0]
    while True:
        ports = Ports(**{use: first + next(_next) % _BLOCK for use in Ports.model_fields})
        if not taken(ports, Network()):
            return ports


def with_own_ports(home: Path) -> Path:
    """``home``, made if it isn't there, whose server takes ports of its own: those that it "had before"."""
    ports = Home(home).ports
    if not ports.exists():
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        own_ports().write(ports)
    return home
