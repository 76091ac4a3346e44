"""Models that TorchServe holds under names which no path of its HTTP can tell.

It decodes a path before it takes it apart, so ``net/1.0`` is taken for version 1.0 of ``net`` however it is
quoted. Over gRPC a name is a field of its own.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
from pathlib import Path
from typing import Any

import grpc

from eideticnet.serving.errors import DeadlineError
from eideticnet.serving.key import Key
from eideticnet.serving.torchserve import services

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def plain(*names: str) -> bool:
    """Whether ``names`` may stand in a path. All that our archives may be called can."""
    return all(map(_PLAIN.fullmatch, names))


class Strangers:
    """The management service at ``target`` (host:port), over TLS with ``trusted`` of the PEM file
    ``certificate``. Methods raise ``RequestError``, or ``NoAnswerError``."""

    def __init__(
        self, target: str, key: Key, certificate: str | None = None, trusted: ssl.SSLContext | bool = True
    ) -> None:
        self._target, self._key, self._certificate, self._trusted = target, key, certificate, trusted

    def describe(self, name: str, version: str, seconds: float) -> Any:
        """TorchServe's description of a version, "" for the one that answers and "all" for all."""
        return json.loads(self._ask("DescribeModel", seconds, model_name=name, model_version=version))

    def unregister(self, name: str, version: str, seconds: float) -> None:
        """Remove a version."""
        self._ask("UnregisterModel", seconds, model_name=name, model_version=version)

    def _ask(self, method: str, seconds: float, **fields: str) -> str:
        with self._channel() as channel:
            rpc = services.Rpc(channel, services.MANAGEMENT, method)
            try:
                return str(rpc([("authorization", self._key.header())], seconds, **fields).msg)
            except grpc.RpcError as error:
                raise services.named(error, self._target, DeadlineError(seconds=seconds)) from None

    def _channel(self) -> Any:
        if self._certificate is None or isinstance(self._trusted, bool):
            return grpc.insecure_channel(self._target)
        credentials = services.trusting(Path(self._certificate))
        host = self._host(self._trusted)
        return grpc.secure_channel(self._target, credentials, [("grpc.ssl_target_name_override", host)])

    def _host(self, trusted: ssl.SSLContext) -> str:
        """A name that the server's certificate is for, which gRPC wants to be told whatever it is."""
        host, _, port = self._target.rpartition(":")
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout=5) as raw,
            trusted.wrap_socket(raw) as tls,
        ):
            names: Any = (tls.getpeercert() or {}).get("subjectAltName", ())
        return str(names[0][1]) if names else host
