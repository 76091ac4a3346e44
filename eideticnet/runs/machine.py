"""What figures and the last bits of an answer depend on, beside the network."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from eideticnet.network import EideticNetwork


def made_with(net: EideticNetwork) -> dict[str, str]:
    """Versions, and where the network computes."""
    return {"python": platform.python_version(), "torch": torch.__version__, "device": _device(net)}


def versions(*packages: str) -> dict[str, str]:
    """Python's, and those of the ``packages`` that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def where(net: EideticNetwork) -> str:
    """Where answers to the same batch have the same bits, as far as is known."""
    return f"torch {torch.__version__}, {_device(net)}, {processor()}, {torch.get_num_threads()} threads"


def _device(net: EideticNetwork) -> str:
    return f"{net.device} ({chip(net) if net.device.type == 'cuda' else platform.machine()})"


def chip(net: EideticNetwork) -> str:
    """The name of the GPU, or else of the CPU."""
    return torch.cuda.get_device_name(net.device) if net.device.type == "cuda" else processor()


def processor() -> str:
    """The CPU's name, as the system tells it."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
