"""Which engine's front end the clients speak to: what it says in words of its own, and its services of gRPC.

The one file of the clients that names an engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eideticnet.serving.torchserve.words import Bearer, understood, worker_died

if TYPE_CHECKING:
    from eideticnet.serving.torchserve import services

__all__ = ["Bearer", "services", "understood", "worker_died"]


def __getattr__(name: str) -> Any:
    """Import gRPC, which is slow to load, only for who asks for it."""
    if name != "services":
        raise AttributeError(name)
    from eideticnet.serving.torchserve import services as found

    return found
