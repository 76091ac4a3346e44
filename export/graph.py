"""The graph file of a bundle, in a format, a layout and a precision, and running it on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch

from eideticnet import EideticNetwork
from export.barriers import barred
from export.body import body, example, owners
from export.dense import Dense
from export.errors import ArchiveError, ExportError
from export.onnx_body import to_onnx
from export.precision import HALVES, Precision, Reduced, quantised
from export.session import Array, Run, session
from export.tail import INPUTS, OUTPUTS, PINNED, THRESHOLD, Rule, X, attach
from export.torch_formats import write_pt2, write_torchscript

Format = Literal["onnx", "torchscript", "pt2"]
Layout = Literal["nested", "dense"]


@dataclass(frozen=True)
class Form:
    """``nested`` runs block by block and promises bits across versions; ``dense`` runs all blocks as
    one layer and does not."""

    format: Format = "onnx"
    layout: Layout = "nested"
    precision: Precision = "float32"

    @property
    def runtime(self) -> str:
        package = "onnxruntime" if self.format == "onnx" else "torch"
        return f"{package} {version(package)}"


def write_graph(net: EideticNetwork, form: Form, rule: Rule, path: Path) -> onnx.ModelProto | None:
    """Write the whole graph to ``path`` and run it once; its body if the format is ONNX.
    ``ExportError`` if the precision is none of the format's, or this machine can't run it."""
    if form.precision == "int8" and form.format != "onnx":
        raise ExportError(f"precision int8 is made by ONNX Runtime's tools; the format is {form.format}")
    nested = body(net)  # which checks the network
    module = nested if form.layout == "nested" else Dense(net).eval()
    dtype = HALVES.get(form.precision)
    computes = module if dtype is None else Reduced(module, net.inputs, dtype).eval()
    model = None
    if form.format == "onnx":
        with barred(computes):
            model = to_onnx(computes, example(net), owners(net))
        model = quantised(model) if form.precision == "int8" else model
        path.write_bytes(attach(model, rule).SerializeToString())
    else:
        write = write_torchscript if form.format == "torchscript" else write_pt2
        write(net, computes, path)
    if form.precision != "float32":
        _try(net, form, path)
    if model is not None:  # checked last: a runtime says more of what it lacks
        save(attach(model, rule), path)
    return model


def save(model: onnx.ModelProto, path: Path) -> None:
    """Check and write a whole ONNX graph."""
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def runner(format: Format, path: Path) -> Run:
    """The graph at ``path`` on one thread, with the options that it is served with."""
    if format == "onnx":
        return session(onnx.load(path))
    module = torch.jit.load(str(path)) if format == "torchscript" else torch.export.load(path).module()

    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        with torch.inference_mode():
            outputs = module(*(torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in INPUTS))
        return {name: value.numpy() for name, value in zip(OUTPUTS, outputs, strict=True)}

    return run  # type: ignore[return-value]


def feed(x: Array, task: Array | None = None) -> dict[str, Array]:
    """The inputs of a graph for raw ``x`` (N, *shape), pinned to ``task`` (N,) or routed."""
    task = np.full(len(x), -1) if task is None else task
    return {X: x, PINNED: task, THRESHOLD: np.zeros(len(x), np.float32)}


def _try(net: EideticNetwork, form: Form, path: Path) -> None:
    """Run one batch; ``ExportError`` names precision and runtime if it fails."""
    try:
        runner(form.format, path)(feed(example(net).numpy()))
    except (ArchiveError, RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(
            f"precision {form.precision}: {form.runtime} on this machine can't run the graph: {reason}"
        ) from error
