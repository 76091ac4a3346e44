"""The way to the engine, as HAProxy is told it: how much at once, what is sent again, who is held."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from eideticnet.serving.edge.answers import refused
from eideticnet.serving.edge.parts import (
    ANEW,
    ENGINE,
    FORMER,
    HEALTH,
    HOLD,
    PATIENT,
    PROMPT,
    WAIT,
    Situation,
    engine,
    keys,
    section,
)
from eideticnet.serving.home.addresses import Ports

BUFFER, LARGE = 32_768, 24_576
"""Bytes of a request that is kept while the engine has it, and sent again where the engine lost it; larger
ones are not kept."""
_AT_ONCE = {"plain": 512, "large": 64, "forms": 2, "grpc": 128}
"""Requests that the engine has at once. Large ones would fill its heap, and a form holds one of its threads
for a second where it is made to; what is more waits here, unread."""
_HOLD_SECONDS, TRY_SECONDS = 20.0, 0.2
_TRIES = 20
"""An engine that is killed breaks off new connections for a tenth of a second, until it refuses them."""
_MANAGED_SECONDS = 180
_KINDS = (("http", "h1", "inference"), ("grpc", "h2", "grpc_inference"))


def backends(at: Situation) -> Iterator[str]:
    """All sections of it."""
    yield from _patient(at)
    yield from _held(at)
    for name in PROMPT:
        kind, protocol, _ = _KINDS[name == "grpc_management"]
        server = engine(at, name, f"proto {protocol}")
        lines = ["retries 3", "timeout connect 1s", f"timeout server {_MANAGED_SECONDS}s", server]
        yield from section(f"backend {name} from {kind}", lines)
    yield from section("backend health from grpc", [f"server supervisor unix@{HEALTH} proto h2"])


def _patient(at: Situation) -> Iterator[str]:
    for name in PATIENT:
        kind, protocol, port = _KINDS[name == "grpc"]
        watched = "check inter 2s fall 3 rise 1 observe layer4 error-limit 1 on-error mark-down"
        kept = name in ("plain", "grpc")
        yield from section(
            f"backend {name} from {kind}",
            [
                f"retries {_TRIES}",
                "retry-on conn-failure empty-response" if kept else "option http-server-close",
                _own_key(kind),
                engine(at, port, f"proto {protocol} maxconn {_AT_ONCE[name]} {watched}"),
                f"server {HOLD} unix@hold.{kind}.sock proto {protocol} backup",
            ],
        )


def _own_key(kind: str) -> str:
    """The edge sends the engine's own key: where it is refused, the engine has just made another one."""
    if kind == "grpc":
        return "http-response set-header grpc-status 14 if { res.fhdr(grpc-status) 7 16 }"
    return f"{refused('503').replace('http-request', 'http-response')} if {{ status 401 }}"


def _held(at: Situation) -> Iterator[str]:
    """A request is held as a fresh one: one that came over a connection to the engine that had served another
    before is not made to wait between tries, and gets no answer in the end. Then it takes a second way to the
    engine, on which its key, if the engine no longer takes it, becomes the one that it takes."""
    for kind, protocol, port in _KINDS:
        yield from section(
            f"listen hold_{kind} from {kind}",
            [
                f"bind unix@hold.{kind}.sock mode 600 proto {protocol}",
                f"retries {_HOLD_SECONDS / TRY_SECONDS:.0f}",
                f"timeout connect {TRY_SECONDS * 1000:.0f}ms",
                "option http-server-close",
                f"server {WAIT} 127.0.0.1:1",
                f"server {ANEW} unix@anew.{kind}.sock proto {protocol} disabled",
            ],
        )
        yield from section(
            f"listen anew_{kind} from {kind}",
            [
                f"bind unix@anew.{kind}.sock mode 600 proto {protocol}",
                *keys(at, FORMER, kind),
                "option http-server-close",
                engine(at, port, f"proto {protocol}"),
            ],
        )


def addresses(engine: Ports) -> Mapping[str, int]:
    """Where each backend finds the engine, by "backend/server"."""
    uses = dict.fromkeys(("plain", "large", "forms", "anew_http"), "inference")
    uses |= {**dict.fromkeys(("grpc", "anew_grpc"), "grpc_inference"), **{name: name for name in PROMPT}}
    return {f"{name}/{ENGINE}": getattr(engine, use) for name, use in uses.items()}
