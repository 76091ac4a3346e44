"""The two networks that are served: equal blocks of random weights, exported and packed as any other."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from torch import nn

from benchmarks.graphs import equal_tasks
from eideticnet.models import mlp, resnet18
from export.archive import write_archive
from export.build import HANDLERS
from export.bundle import write_bundle

SHAPES = {"mlp": (784,), "resnet18": (3, 64, 64)}
TASKS = {"mlp": 10, "resnet18": 5}


def trunk(name: str) -> nn.Module:
    """784-2000-2000, or ResNet-18 as usual."""
    torch.manual_seed(0)
    return mlp(784, (2000, 2000)) if name == "mlp" else resnet18()


def pack(name: str, store: Path, versions: tuple[str, ...] = ("1.0",)) -> Path:
    """Write STORE/NAME-VERSION.mar for each version, all of one graph; the path of that graph."""
    net = equal_tasks(trunk(name), SHAPES[name], TASKS[name], router=True)
    graph = store / f"{name}.onnx"
    for version in versions:
        with tempfile.TemporaryDirectory(prefix="eidetic-bundle-") as folder:
            write_bundle(net, Path(folder), name=name, model_version=version)
            write_archive(Path(folder), HANDLERS, store / f"{name}-{version}.mar")
            shutil.copyfile(Path(folder) / "model.onnx", graph)
    return graph
