"""The served graph in ONNX Runtime or torch: arrays in, arrays out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Run = Callable[[Array, Array, Array], dict[str, Array]]


def load(folder: Path, bundle: dict[str, Any], threads: int) -> Run:
    """A function from ``x`` (N, *shape), ``task`` (N,) int64 and ``threshold`` (N,) float32 to
    the graph's outputs by name."""
    loaders = {"onnx": _onnx, "torchscript": _torchscript, "pt2": _pt2}
    if bundle["format"] not in loaders:
        raise ValueError(f"bundle.json: format {bundle['format']!r} is none of {', '.join(loaders)}")
    return loaders[bundle["format"]](folder / bundle["model"], bundle["graph"], threads)


def _onnx(path: Path, names: dict[str, list[str]], threads: int) -> Run:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # official builds report usage otherwise
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(*inputs: Array) -> dict[str, Array]:
        outputs = session.run(names["outputs"], dict(zip(names["inputs"], inputs, strict=True)))
        return dict(zip(names["outputs"], outputs, strict=True))

    return run


def _torchscript(path: Path, names: dict[str, list[str]], threads: int) -> Run:
    import torch

    torch.set_num_threads(threads)
    return _in_torch(torch.jit.load(str(path), map_location="cpu").eval(), names)


def _pt2(path: Path, names: dict[str, list[str]], threads: int) -> Run:
    import torch

    torch.set_num_threads(threads)
    return _in_torch(torch.export.load(path).module(), names)


def _in_torch(module: Callable[..., Any], names: dict[str, list[str]]) -> Run:
    import torch

    def run(*inputs: Array) -> dict[str, Array]:
        with torch.inference_mode():
            outputs = module(*(torch.from_numpy(np.ascontiguousarray(i)) for i in inputs))
        return dict(zip(names["outputs"], (o.numpy() for o in outputs), strict=True))

    return run
