"""What the sections of HAProxy's configuration share: names, and the lines that check a key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from eideticnet.serving.edge.answers import refused
from eideticnet.serving.edge.options import EdgeOptions
from eideticnet.serving.home.addresses import Network, Ports

CLI, PEM, HEALTH = "cli.sock", "edge.pem", "health.sock"
"""Files in the folder where HAProxy runs: its commands, certificate and key, who tells of health."""
INFERENCE, MANAGEMENT = "inference.map", "management.map"
"""Which key the engine takes in the place of which, by the latter's HMAC."""
FORMER = "former.map"
"""The same for requests that were held with an engine's former key."""
FRONTS = ("inference", "management", "grpc", "grpc_management")
PATIENT, PROMPT = ("plain", "large", "forms", "grpc"), ("management", "grpc_management")
"""Backends whose requests are held while there is no engine, and those whose are not."""
ENGINE, HOLD = "engine", "hold"
"""The servers of a patient backend. A request goes to the second once the first does not answer."""
HOLDS, WAIT, ANEW = ("hold_http", "hold_grpc"), "wait", "anew"
"""Where requests are held, and the servers there, of which one is ready: none at all, where a request tries
again and again, and the way by which it gets the engine's new key."""
_WRONG_KEYS = 30
"""Of one client within ten seconds."""


@dataclass(frozen=True)
class Situation:
    """What the text depends on beyond options: ``key`` (Base64) makes the HMACs, ``engine`` is where there is
    one, None while none is ready."""

    options: EdgeOptions
    network: Network
    ports: Ports
    key: str
    descriptors: int
    engine: Ports | None = None


def section(head: str, lines: list[str]) -> Iterator[str]:
    """The lines of one section."""
    yield from ("", head, *(f"  {line}" for line in lines if line))


def engine(at: Situation, port: str, rest: str) -> str:
    """The engine as a server, where there is one."""
    where = "127.0.0.1:1 disabled" if at.engine is None else f"127.0.0.1:{getattr(at.engine, port)}"
    return f"server {ENGINE} {where} {rest}"


def keys(at: Situation, file: str, kind: str = "http", but: str = "") -> list[str]:
    """The key that was sent, found by an HMAC of it whose key nobody knows, so how long that takes tells
    nothing. What the engine takes is put in its place."""
    wrong = f"!{{ var(txn.key) -m found }} {but}".rstrip()
    found = f"req.fhdr(authorization),hmac(sha256,{at.key}),hex,map_str({file})"
    counted = [
        f"{refused('429', kind)} if {wrong} {{ sc0_gpc0_rate gt {_WRONG_KEYS} }}",
        f"http-request sc-inc-gpc0(0) if {wrong}",
    ]
    return [
        f"http-request set-var(txn.key) {found}",
        *(counted if file != FORMER else []),
        f"{refused('401', kind)} if {wrong}",
        'http-request set-header Authorization "Bearer %[var(txn.key)]"',
    ]
