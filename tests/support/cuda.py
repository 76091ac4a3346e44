"""Tests that need CUDA: skipped where there is none, unless EIDETIC_GPU says that there is to be one."""

from __future__ import annotations

import os

import pytest
import torch

from eidetic_runtime.graph import Graph


def on_cuda(graph: Graph) -> Graph:
    """``graph`` if it runs on CUDA; else the test ends here."""
    if graph.device == "cuda":
        return graph
    _ends(f"no CUDA here: {graph.problem}")
    return graph


def needs_cuda() -> None:
    """End the test here unless torch can use CUDA."""
    if not torch.cuda.is_available():
        _ends("no CUDA here that torch can use")


def _ends(reason: str) -> None:
    if os.environ.get("EIDETIC_GPU"):
        pytest.fail(f"EIDETIC_GPU is set, and {reason}")
    pytest.skip(reason)
