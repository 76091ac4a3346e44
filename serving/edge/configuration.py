"""What HAProxy is told. Of what a user writes it holds addresses, numbers and checked origins alone."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from eidetic_runtime.headers import ECHO, OPTION, SHADOW
from eidetic_runtime.options import NAMES
from eideticnet.serving.edge.answers import MOST_FORM_BYTES, errorfiles, refused
from eideticnet.serving.edge.backends import BUFFER, LARGE, backends
from eideticnet.serving.edge.parts import CLI, INFERENCE, MANAGEMENT, PEM, Situation, keys, section
from eideticnet.serving.errors import MOST_BYTES

_HEAD_SECONDS, _ANSWER_SECONDS, _IDLE_SECONDS = 10, 60, 60
_CONNECTIONS, _MANAGERS, _OWN = 2000, 50, 200
"""Connections to predictions, of each of HTTP and gRPC; to management; and descriptors for all else."""
_PATHS = r"^/(ping|predictions|explanations|invocations|wfpredict|v1|v2|openapi\.json|[^/]+/predict)(/|$)"
_OURS = [SHADOW, *(OPTION + name.replace("_", "-") for name in NAMES)]
_ONCE = ("authorization", "content-type", "content-encoding", *_OURS)
"""Headers that mean one thing, of which an engine shows one where there are two."""
_ALLOWED = "authorization, content-type, content-encoding, traceparent, tracestate, x-request-id"
_BODILESS = "method GET HEAD OPTIONS"
_HEALTH = "path -m beg /grpc.health.v1.Health/"


def configuration(at: Situation) -> str:
    """The file."""
    return "\n".join([*_global(at), *_fronts(at), *backends(at), ""])


def _connections(at: Situation) -> int:
    """To predictions: each may need two descriptors."""
    return max(50, min(_CONNECTIONS, at.descriptors // 2 - _OWN))


def _global(at: Situation) -> Iterator[str]:
    yield from section(
        "global",
        [
            f"maxconn {_connections(at) + _OWN // 2}",
            f"stats socket unix@{CLI} mode 600 level admin",
            f"tune.bufsize {BUFFER}",
            "hard-stop-after 10s",
            "ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets",
            "ssl-default-bind-ciphers ECDHE+AESGCM:ECDHE+CHACHA20",
        ],
    )
    for kind, idle in (("http", _HEAD_SECONDS), ("grpc", _IDLE_SECONDS)):
        yield from section(
            f"defaults {kind}",
            [
                "mode http",
                "timeout connect 3s",
                f"timeout http-request {_HEAD_SECONDS}s",
                f"timeout client {idle}s",
                "timeout client-fin 5s",
                f"timeout http-keep-alive {_IDLE_SECONDS}s",
                f"timeout queue {_HEAD_SECONDS}s",
                f"timeout server {_ANSWER_SECONDS}s",
                "http-reuse always",
                "option redispatch 1",
                *errorfiles(kind),
            ],
        )


def _fronts(at: Situation) -> Iterator[str]:
    network, ports, most = at.network, at.ports, _connections(at)
    web = "h2,http/1.1" if network.certificate else ""
    yield from section(
        "frontend inference from http",
        [
            _bind(network.host, ports.inference, web),
            f"maxconn {most}",
            *_sound(at),
            f"{refused('405')} unless {{ method GET HEAD POST OPTIONS }}",
            *_cors(at.options.cors),
            *keys(at, INFERENCE),
            f"{refused('404')} unless {{ path -m reg {_PATHS} }}",
            *_bodies(),
        ],
    )
    yield from section(
        "frontend management from http",
        [
            _bind(network.management_host, ports.management, web),
            f"maxconn {_MANAGERS}",
            *_sound(at),
            *keys(at, MANAGEMENT),
            f"{refused('413')} if {{ req.body_size gt {MOST_BYTES} }}",
            "default_backend management",
        ],
    )
    for use, host, port, file, many in (
        ("grpc", network.host, ports.grpc_inference, INFERENCE, most),
        ("grpc_management", network.management_host, ports.grpc_management, MANAGEMENT, _MANAGERS),
    ):
        yield from section(
            f"frontend {use} from grpc",
            [
                _bind(host, port, "h2" if network.certificate else "", "h2"),
                f"maxconn {many}",
                *_few(at),
                *keys(at, file, "grpc", f"!{{ {_HEALTH} }}"),
                f"use_backend health if {{ {_HEALTH} }}",
                f"default_backend {use}",
            ],
        )
    yield from section(
        "backend clients from http",
        ["stick-table type ipv6 size 100k expire 60s store conn_cur,gpc0_rate(10s)"],
    )


def _bind(host: str, port: int, alpn: str, plain: str = "h1") -> str:
    """Listen at ``host``, over TLS where ``alpn`` says what for."""
    *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    found = str(address[0])
    where = f"ipv6@[{found}]:{port}" if ":" in found else f"ipv4@{found}:{port}"
    both = " v4v6" if found == "::" else ""
    return f"bind {where}{both} " + (f"ssl crt {PEM} alpn {alpn}" if alpn else f"proto {plain}")


def _few(at: Situation) -> list[str]:
    """Connections of one client, which is an address, or a network of IPv6."""
    return [
        "tcp-request connection track-sc0 src,ipmask(32,64) table clients",
        f"tcp-request connection reject if {{ sc0_conn_cur gt {at.options.connections} }}",
    ]


def _sound(at: Situation) -> list[str]:
    """What any client of HTTP has to keep to, before its key is looked at."""
    return [
        *_few(at),
        f"{refused('400')} unless {{ req.ver 1.0 1.1 2.0 }}",
        f"{refused('400')} if HTTP_1.1 !{{ req.fhdr(host) -m found }}",
        f"{refused('400')} if HTTP_1.0 {{ req.fhdr(transfer-encoding) -m found }}",
        f"{refused('400')} if {{ {_BODILESS} }} {{ req.fhdr(transfer-encoding) -m found }}",
        f"{refused('400')} if {{ {_BODILESS} }} {{ req.body_size gt 0 }}",
        *(f"{refused('400')} if {{ req.fhdr_cnt({name}) gt 1 }}" for name in _ONCE),
    ]


def _bodies() -> list[str]:
    """What may be sent, and where it goes: what is small is read here first, however slowly it comes."""
    return [
        f"{refused('413')} if {{ req.body_size gt {MOST_BYTES} }}",
        f"{refused('415')} if {{ req.fhdr(content-type) -m sub -i urlencoded }}",
        "acl form req.fhdr(content-type) -m sub -i multipart",
        "acl chunked req.fhdr(transfer-encoding) -m found",
        f"{refused('413-form')} if form {{ req.body_size gt {MOST_FORM_BYTES} }}",
        f"{refused('413-form')} if form chunked",
        f"http-request wait-for-body time {_HEAD_SECONDS}s unless {{ {_BODILESS} }}",
        "use_backend forms if form",
        f"use_backend large if {{ req.body_size gt {LARGE} }}",
        "use_backend large if chunked",
        "default_backend plain",
    ]


def _cors(origins: tuple[str, ...]) -> list[str]:
    if not origins:
        return []
    known = "-m found" if "*" in origins else f"-m str -- {' '.join(origins)}"
    headers = ", ".join([_ALLOWED, *_OURS])
    return [
        "http-request set-var(txn.origin) req.fhdr(origin)",
        f"acl origin var(txn.origin) {known}",
        "http-after-response add-header Vary Origin",
        "http-after-response set-header Access-Control-Allow-Origin %[var(txn.origin)] if origin",
        f"http-after-response set-header Access-Control-Expose-Headers {ECHO} if origin",
        f"http-request return status 204 hdr Access-Control-Allow-Methods POST "
        f'hdr Access-Control-Allow-Headers "{headers}" hdr Access-Control-Max-Age 600 '
        "if origin { method OPTIONS } { req.hdr(access-control-request-method) -m found }",
    ]
