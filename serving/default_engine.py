"""Which engine serves: the one file of the server that names one."""

from __future__ import annotations

from eideticnet.serving.engine import Engine
from eideticnet.serving.torchserve.engine import TorchServeEngine
from eideticnet.serving.torchserve.settings import HEAP_MEGABYTES

__all__ = ["HEAP_MEGABYTES", "NAME", "default_engine"]

NAME = TorchServeEngine.name


def default_engine(heap: int = HEAP_MEGABYTES) -> Engine:
    """The engine, whose Java may use ``heap`` megabytes."""
    return TorchServeEngine(heap)
