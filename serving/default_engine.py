"""Which engine serves: the one file of the server that names them."""

from __future__ import annotations

from typing import Literal

from eideticnet.serving.engine import Engine
from eideticnet.serving.errors import ServingError
from eideticnet.serving.ray.engine import RayEngine
from eideticnet.serving.torchserve.engine import TorchServeEngine
from eideticnet.serving.torchserve.settings import HEAP_MEGABYTES

__all__ = ["DEFAULT", "HEAP_MEGABYTES", "NAME", "Named", "default_engine", "engine_called", "engine_named"]

NAME = TorchServeEngine.name
Named = Literal["torchserve", "ray"]
DEFAULT: Named = "torchserve"


def default_engine(heap: int = HEAP_MEGABYTES) -> Engine:
    """The engine, whose Java may use ``heap`` megabytes."""
    return TorchServeEngine(heap)


def engine_named(name: Named, heap: int = HEAP_MEGABYTES, address: str = "", most: int = 0) -> Engine:
    """The engine of that name. ``address`` is that of a Ray cluster, and ``most`` how many workers it may
    start where requests wait."""
    if name == "ray":
        return RayEngine(address, most)
    if address or most:
        option = "--address" if address else "--most-workers"
        raise ServingError(f"{option} is of a cluster: it takes --engine ray")
    return default_engine(heap)


def engine_called(name: str) -> Engine:
    """The engine whose own name that is, as ``server.json`` has it; it is to be managed, and not started."""
    return RayEngine() if name == RayEngine.name else default_engine()
