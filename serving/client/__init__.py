"""Clients of one server: HTTP and gRPC, blocking and asynchronous, with the same ``predict``.

``predict(model, x)`` takes an array, list or tensor of one instance or of n, an image's bytes, a file, or
a list of images or files, and gives a list of ``Answer``, one for each instance. Given a JSON request as a
dict it gives the answer's JSON as a dict. What is more than one request may hold goes in several, one after
the other, all answered by one version of the network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eideticnet.client.answers import Answer, Choice
from eideticnet.client.http import AsyncClient, Client

if TYPE_CHECKING:
    from eideticnet.client.grpc import AsyncGrpcClient, GrpcClient
    from eideticnet.client.open_inference import OpenInference

__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncGrpcClient",
    "Choice",
    "Client",
    "GrpcClient",
    "OpenInference",
]
_NEEDS_GRPC = {
    "GrpcClient": "grpc",
    "AsyncGrpcClient": "grpc",
    "OpenInference": "open_inference",
}


def __getattr__(name: str) -> Any:
    """Import gRPC, which is slow to load, only for who asks for it."""
    from importlib import import_module

    if name not in _NEEDS_GRPC:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{_NEEDS_GRPC[name]}"), name)
