"""A trunk's graph, and what its code asks about its mode while it is traced.

It is by ``module.training`` that code tells whether it trains. Where none but stock layers ask, it is known
what they do then, and the graph in evaluation mode tells the other one: half of what a trace costs.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Graph, Node, _symbolic_trace
from torch.fx.experimental import proxy_tensor
from torch.nn.modules import module as modules
from torch.nn.modules.batchnorm import _BatchNorm

from eideticnet.rules.calls import path_of
from eideticnet.trace.exported import exported, tried
from eideticnet.trace.modes import TOLD_TO_RULES, Modes, compared
from eideticnet.trace.normal import Recurrence, SelfAttention, in_mode

_STOCK: tuple[type[nn.Module], ...] = (
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(_BatchNorm, nn.RReLU, SelfAttention, Recurrence),
    *(nn.TransformerEncoder, nn.TransformerEncoderLayer),  # about a shortcut that SelfAttention rules out
)
_KNOWN = {kind.forward.__code__ for kind in _STOCK}
_BETWEEN = {modules.__file__, _symbolic_trace.__file__, proxy_tensor.__file__}


def exported_asking(
    named: nn.Module, example: Tensor
) -> tuple[ExportedProgram, Modes | None, dict[str, object]]:
    """The graph in evaluation mode, what another one would be in training mode if that is known without it,
    and the settings after forward ran once."""
    asked: Asked | None
    plain = all(map(_by_the_book, named.modules()))
    for asked in (Asked(named), None) if plain else (None,):
        try:
            with asked or nullcontext():
                before = plain_attributes(named)
                tried(named, example)
                if before != (before := plain_attributes(named)):
                    tried(named, example)  # what counts goes on, what is made once is there
                if not plain:
                    in_mode(named, training=False)  # what it keeps of its parameters is no constant
                graph = exported(named, example)
            break
        except Exception as error:
            if asked is None or not _about_the_mode(error):
                raise
    return graph, asked.modes(graph) if asked else None, before


def _about_the_mode(error: BaseException | None) -> bool:
    """Whether it may come from code that looks for its mode elsewhere, or sets it."""
    return error is not None and (
        "training" in str(error) or _about_the_mode(error.__cause__ or error.__context__)
    )


def in_both_modes(named: nn.Module, example: Tensor, graph: ExportedProgram) -> Modes:
    """What another trace, in training mode, shows beside ``graph``."""
    tried(in_mode(named, training=True), example)
    return compared(graph, exported(named, example))


def plain_attributes(trunk: nn.Module) -> dict[str, object]:
    """Plain attributes of all modules, except the mode, by dotted name."""
    plain = {
        f"{path}.{name}".lstrip("."): value
        for path, module in trunk.named_modules()
        for name, value in vars(module).items()
        if type(value) in (bool, int, float, str)
    }
    return {name: value for name, value in plain.items() if name.rpartition(".")[2] != "training"}


class Asked:
    """While this context lasts, ``trunk`` is in evaluation mode, and what code asks its modules for it is
    noted."""

    def __init__(self, trunk: nn.Module) -> None:
        self._trunk = trunk
        self._noted = {m: _Buffers(m._buffers) for m in trunk.modules() if "training" in vars(m)}

    def __enter__(self) -> Asked:
        for module, buffers in self._noted.items():
            vars(module)["_buffers"] = buffers
            del vars(module)["training"]
        return self

    def __exit__(self, *error: object) -> None:
        for module, buffers in self._noted.items():
            vars(module).update(_buffers=dict(buffers), training=False)

    def modes(self, graph: ExportedProgram) -> Modes | None:
        """What the graph in training mode would be beside this one; None if only another trace can tell."""
        asked = {module for module, buffers in self._noted.items() if buffers.askers}
        known = all(self._noted[m].askers == {_code(m.forward)} <= _KNOWN for m in asked)
        if not known or not all(map(_by_the_book, self._noted)):
            return None
        found = {}
        for node in graph.graph.nodes:
            argument, *_ = TOLD_TO_RULES.get(str(node.target).replace("_.default", ".default"), ("",))
            module = self._trunk.get_submodule(path_of(node)) if argument else None
            if argument and module in asked:
                rate = module.dropout if isinstance(module, SelfAttention) else True
                found[node] = _with(node, argument, rate)
        return Modes(found)


class _Buffers(dict[str, Any]):
    """The buffers of a module, among which its mode is looked up while it has no attribute of that name."""

    def __init__(self, buffers: dict[str, Any]) -> None:
        super().__init__(buffers)
        self.askers = set[CodeType]()

    def __contains__(self, name: object) -> bool:
        return name == "training" or super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        if name != "training":
            return super().__getitem__(name)
        frame = sys._getframe(1)
        while frame.f_back and frame.f_code.co_filename in _BETWEEN:
            frame = frame.f_back
        self.askers.add(frame.f_code)
        return False


def _by_the_book(module: nn.Module) -> bool:
    """Whether ``train`` does nothing but set the mode."""
    return _code(module.train) is nn.Module.train.__code__ and _code(module.eval) is nn.Module.eval.__code__


def _code(method: Any) -> CodeType | None:
    return getattr(method, "__code__", None)


def _with(node: Node, argument: str, value: object) -> Node:
    """The same call with another argument, in a graph of its own."""
    graph = Graph()
    twin = graph.node_copy(node, lambda used: graph.placeholder(used.name))
    assert isinstance(node.target, torch._ops.OpOverload)
    arguments = node.target._schema.arguments
    given = {a.name: a.default_value for a in arguments}
    given |= {**dict(zip(given, twin.args, strict=False)), **twin.kwargs, argument: value}
    twin.args = tuple(given[a.name] for a in arguments if not a.kwarg_only)
    twin.kwargs = {a.name: given[a.name] for a in arguments if a.kwarg_only}
    return twin
