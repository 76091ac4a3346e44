"""The graph file of a bundle, in a format, a layout and a precision, and running it on this machine."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from torch import nn

from eideticnet import EideticNetwork
from eideticnet.export.bundle.agreement import Reference
from eideticnet.export.errors import ArchiveError, ExportError
from eideticnet.export.graph.session import Array, Run, session
from eideticnet.export.graph.tail import INPUTS, OUTPUTS, TailRule, attach
from eideticnet.export.lowering.barriers import barred
from eideticnet.export.lowering.body import Body, example, owners
from eideticnet.export.lowering.paged import PagedBody, dense
from eideticnet.export.lowering.precision import HALVES, Precision, Reduced, quantised
from eideticnet.export.lowering.to_onnx import to_onnx
from eideticnet.export.lowering.torch_formats import write_pt2, write_torchscript
from eideticnet.program import Program

Format = Literal["onnx", "torchscript", "pt2"]
Layout = Literal["nested", "paged", "dense"]


BODIES: dict[Layout, Callable[[EideticNetwork], Body | PagedBody]] = {
    "nested": Body,
    "paged": PagedBody,
    "dense": dense,
}


@dataclass(frozen=True)
class Form:
    """``nested`` runs block by block and ``paged`` neighbouring blocks as one layer: float32 ONNX of these
    promises bits across versions. ``dense`` runs all blocks as one layer, and promises none."""

    format: Format = "onnx"
    layout: Layout = "nested"
    precision: Precision = "float32"

    @property
    def what(self) -> str:
        return f"{self.format}, {self.layout}, {self.precision}"

    @property
    def runtime(self) -> str:
        package = "onnxruntime" if self.format == "onnx" else "torch"
        return f"{package} {version(package)}"


def write_graph(reference: Reference, form: Form, rule: TailRule, path: Path) -> onnx.ModelProto | None:
    """Write the whole graph of the reference's network to ``path``; its body if the format is ONNX.
    ``ExportError`` if the format lacks the precision, this machine can't run it, or it answers otherwise."""
    net = reference.net
    if form.precision == "int8" and form.format != "onnx":
        raise ExportError(f"precision int8 is made by ONNX Runtime's tools; the format is {form.format}")
    model: onnx.ModelProto | None = None
    if form.format == "onnx":
        model = onnx_body(net, form)
    else:
        with _one_line(form, net.program):
            write = write_torchscript if form.format == "torchscript" else write_pt2
            write(net, _computes(net, form)[0], path)
    if model is not None:
        if form.precision == "int8":
            reference.check(session(attach(model, rule)), "float32", form.what)
            with _one_line(form, net.program):
                model = quantised(model)
        path.write_bytes(attach(model, rule).SerializeToString())
    _try(reference, form, path)
    if model is not None:  # checked last: a runtime says more of what it lacks
        save(attach(model, rule), path)
    return model


def onnx_body(net: EideticNetwork, form: Form) -> onnx.ModelProto:
    """The network's body as an ONNX graph; of int8 that which is to be quantised."""
    computes, joined = _computes(net, form)
    with _one_line(form, net.program), barred(computes):
        return to_onnx(computes, example(net), owners(net), joined)


def _computes(net: EideticNetwork, form: Form) -> tuple[nn.Module, Mapping[str, Mapping[str, int]]]:
    """The body as a module, and what is to be cut apart of what it gives, see ``to_onnx``."""
    module, joined = BODIES[form.layout](net).eval(), dict[str, dict[str, int]]()
    if isinstance(module, PagedBody) and form.format == "onnx":
        module.by_page = True
        joined = module.joined
    dtype = HALVES.get(form.precision)
    return (module if dtype is None else Reduced(module, net.inputs, dtype).eval()), joined


@contextmanager
def _one_line(form: Form, program: Program) -> Iterator[None]:
    """Whatever is raised while a graph is written becomes an ``ExportError`` of one line that names the
    operation, and the layers or steps of the trunk that run it."""
    try:
        yield
    except (ExportError, OSError, MemoryError):
        raise
    except Exception as error:
        causes: list[BaseException] = [error]
        while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
            causes.append(cause)
        found = re.search(r"(?:torch\.ops\.)?(aten[.:]+\w+)", " ".join(map(str, causes)))
        name = found[1].replace("::", ".") if found else "the graph"
        reason = next(iter(str(causes[-1]).strip().splitlines()), "") or type(causes[-1]).__name__
        raise ExportError(
            f"{name}{_where(name, program)} can't be written as {form.what}: {reason[:200]}; use another "
            "operation, --format or --precision"
        ) from error


def _where(operation: str, program: Program) -> str:
    """Which layers, or steps without one, run an operation."""
    plain = operation.partition(".")[2].strip("_")
    steps = [s for s in program.steps if plain and plain in f"{s.options.get('op', '')} {s.rule} {s.name}"]
    return f" of {', '.join(dict.fromkeys(repr(s.layer or s.name) for s in steps))}" if steps else ""


def save(model: onnx.ModelProto, path: Path) -> None:
    """Check and write a whole ONNX graph."""
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def runner(format: Format, path: Path) -> Run:
    """The graph at ``path`` on one thread, with the options that it is served with."""
    if format == "onnx":
        return session(onnx.load(path))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
        module = torch.jit.load(str(path)) if format == "torchscript" else torch.export.load(path).module()

    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        with torch.inference_mode():
            outputs = module(*(torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in INPUTS))
        return {name: value.numpy() for name, value in zip(OUTPUTS, outputs, strict=True)}

    return run  # type: ignore[return-value]


def _try(reference: Reference, form: Form, path: Path) -> None:
    """``ExportError`` names precision and runtime if the graph can't be run, and what is wrong if it answers
    otherwise than the network."""
    try:
        reference.check(runner(form.format, path), form.precision, form.what)
    except (ArchiveError, RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(
            f"precision {form.precision}: {form.runtime} on this machine can't run the graph: {reason}"
        ) from error
