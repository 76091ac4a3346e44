"""What a rule sees while a trunk is traced: one call of an operation."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn.utils import parametrize

from eideticnet.errors import UnsupportedError
from eideticnet.program import INPUT, Features, Step

LARGEST_LITERAL = 65536
"""Numbers in a constant that a program still holds as text."""
BARE = "the parameter as it is; where a layer reads it, parameter.expand(x.shape[0], -1, -1)"


@dataclass(frozen=True)
class Constant:
    """A tensor that does not depend on the input; ``parameter`` is the dotted name of the
    trunk's tensor that it was made from, None if it was computed from literals and buffers, and
    ``shown_by`` tells how it is shown in this shape, None if it was computed from the parameter."""

    value: Tensor
    parameter: str | None = None
    shown_by: str | None = None

    def as_parameter(self) -> dict[str, Any]:
        """The options of a step that gives it, as a parameter."""
        return {
            "shape": list(self.value.shape),
            "mean": float(self.value.float().mean()),
            "std": float(self.value.std(correction=0)),
            "raw_columns": 1,
            "shown_by": self.shown_by,
        }


@dataclass(frozen=True)
class Call:
    """One call of an ATen operation on tensors, some of them ``constants``.

    ``values`` gives, for each activation computed so far, its name and where its features lie, by
    node; ``weights`` the dotted names of the trunk's tensors, by placeholder. ``index`` says which
    of several outputs is meant. ``twin`` is the same call in training mode. ``computed`` names a constant
    that is computed from parameters, once it has traced how. ``extra`` are steps that have to run before the
    call's own. ``source`` is what is read where the operation is the last of several.
    """

    node: Node
    operation: str
    trunk: nn.Module
    weights: Mapping[str, str]
    values: Mapping[Node, tuple[str, Features]]
    constants: Mapping[Node, Constant]
    name: str
    twin: Node
    computed: Callable[[Call, Node, Features], str]
    index: int | None = None
    extra: list[Step] = field(default_factory=list)
    source: Node | None = None

    @property
    def operands(self) -> list[Node]:
        """The activations and constants that are read, each once, in order."""
        return [n for n in self.node.all_input_nodes if n in self.values or n in self.constants]

    @property
    def activations(self) -> list[Node]:
        read = self.node.all_input_nodes if self.source is None else [self.source]
        return [n for n in read if n in self.values]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the activations that are read."""
        return tuple(self.values[n][0] for n in self.activations)

    @property
    def features(self) -> Features:
        """Where the features of the first activation lie."""
        return self.values[self.activations[0]][1]

    @property
    def shape(self) -> tuple[Any, ...]:
        """The output's shape; the batch size in it is symbolic."""
        return shape_of(self.node, self.index)

    @property
    def input_shape(self) -> tuple[Any, ...]:
        """The first activation's shape."""
        return shape_of(self.activations[0])

    @property
    def path(self) -> str:
        """Dotted path of the innermost module that the call belongs to; "" is the trunk."""
        return path_of(self.node)

    def argument(self, position: int, default: Any = None) -> Any:
        """A positional argument, or what the operation takes if it is not given."""
        return self.node.args[position] if position < len(self.node.args) else default

    @property
    def named(self) -> dict[str, Any]:
        """All arguments by the names that the operation has for them."""
        schema = self.node.target._schema  # type: ignore[union-attr]
        given = {a.name: self.argument(i, a.default_value) for i, a in enumerate(schema.arguments)}
        return {**given, **self.node.kwargs}

    def layer(self, kind: str, **tensors: Any) -> str:
        """Path of the layer whose own ``tensors`` this call reads, each under the stock layer's name for
        it: a stock layer ``kind``, a subclass of it, or any module that calls the operation alike.

        A layer without tensors has the path of its module if that is a stock one, else one of its own.
        """
        given = {name: node for name, node in tensors.items() if node is not None}
        found = {name: self.weights.get(node.name, "") for name, node in given.items()}
        if computed := [name for name, where in found.items() if not where]:
            raise self._computed(computed[0])
        owners = sorted({where.rpartition(".")[0] for where in found.values()})
        if len(owners) > 1:
            other = next(owner for owner in owners if owner != self.path)
            raise self.refuse(f"shares a tensor with {other!r}", "a weight of its own")
        path = owners[0] if owners else self.path
        layer = self.trunk.get_submodule(path)
        own = {name for name, _ in layer.named_parameters(recurse=False)} & set(tensors)
        trained = {name for name in given if not name.startswith("running")}
        if found != {name: f"{path}.{name}" for name in given} or own != trained:
            raise self.refuse("is used with a bare parameter", f"nn.{kind}")
        if "bias" in given and "weight" not in given:
            raise self.refuse("shifts without scaling", f"nn.{kind} with a weight, or a sum after it")
        if hooked(layer):
            raise self.refuse(f"belongs to layer {path!r}, which has hooks", "a module after it instead")
        stock = bool(owners) or isinstance(layer, getattr(nn, kind))
        return path if path and stock else f"{path}.{self.name}".lstrip(".")

    def _computed(self, name: str) -> UnsupportedError:
        """The error for a tensor of a layer that is not one of the trunk's own."""
        if parametrize.is_parametrized(self.trunk.get_submodule(self.path)):
            return self.refuse(f"has a parametrized {name}", "parametrize.remove_parametrizations first")
        return self.refuse(f"uses a computed {name}", "a weight of its own")

    def constant(self, node: Node, features: Features) -> str:
        """The name of a step, run before this call, that gives the constant ``node``.

        ``features``: where the neurons lie in what it is combined with. A parameter that has a
        column for each of them is divided among their owners; one that has not is everyone's own.
        """
        constant, name = self.constants[node], f"{self.name}_{node.name}"
        shape = list(constant.value.shape)
        columns = shape[features.dim] if not features.raw and len(shape) >= -features.dim else 1
        if constant.parameter is None and (columns > 1 or constant.value.numel() > LARGEST_LITERAL):
            owned = features if columns > 1 else Features()
            options = {**packed(constant.value), "raw_columns": 1}
            self.extra.append(Step(name, "buffer", (), owned, f"{self.path}.{name}".lstrip("."), options))
            return self._of_all_rows(node, self.extra[-1])
        if constant.parameter is None:
            literal = {"value": constant.value.tolist(), "dtype": str(constant.value.dtype).partition(".")[2]}
            self.extra.append(Step(name, "constant", (INPUT,), Features(), None, literal))
            return self._of_all_rows(node, self.extra[-1])
        owned = features if columns > 1 else Features()
        if constant.shown_by is None:
            return self.computed(self, node, owned)
        self.extra.append(Step(name, "parameter", (), owned, constant.parameter, constant.as_parameter()))
        return name

    def _of_all_rows(self, node: Node, given: Step) -> str:
        """The name of the step that has the constant again for each row, if it has several numbers where
        positions became rows: windows, say."""
        rows = batch_dim(shape_of(node))
        if rows is None or self.constants[node].value.shape[rows] == 1:
            return given.name
        name = f"{given.name}_again"
        self.extra.append(Step(name, "again", (given.name, INPUT), given.features, None, {"dim": rows}))
        return name

    def literals(self, names: Mapping[Node, int]) -> tuple[list[Any], dict[str, Any]]:
        """The call's arguments as JSON, each tensor replaced by ``{"input": its index}``."""

        def literal(value: Any) -> Any:
            if isinstance(value, Node):
                if value not in names:
                    if not isinstance(value.meta.get("val"), Tensor):
                        raise self.refuse(
                            "computes with the number of rows; a row must be computed by itself"
                        )
                    raise self.refuse("takes a tensor that no rule covers")
                return {"input": names[value]}
            if isinstance(value, list | tuple):
                return [literal(v) for v in value]
            if value is None or isinstance(value, bool | int | float | str):
                return value
            if isinstance(value, torch.dtype):
                return {"dtype": str(value).partition(".")[2]}
            if isinstance(value, torch.device | torch.layout | torch.memory_format):
                return None  # those of what it is given
            raise self.refuse(f"takes an argument {value!r} that no rule covers")

        kwargs = {k: literal(v) for k, v in self.node.kwargs.items() if v is not None}
        return [literal(a) for a in self.node.args], kwargs

    def refuse(self, problem: str, instead: str = "") -> UnsupportedError:
        """The error that names operation, layer and, where there is one, what to use."""
        advice = f"; use {instead}" if instead else ""
        return UnsupportedError(
            f"{self.operation} in {place(self.node)} {problem}{advice} (node {self.name})"
        )


def hooked(layer: nn.Module) -> bool:
    """Whether something else runs when the layer does, or its weights are not what it holds."""
    hooks = layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks
    return any(hooks) or parametrize.is_parametrized(layer)


def path_of(node: Node) -> str:
    """Dotted path of the innermost module that ``node`` belongs to; "" is the trunk."""
    stack = node.meta.get("nn_module_stack") or {"": ("", None)}
    return str(list(stack.values())[-1][0]).partition("@")[0]


def place(node: Node) -> str:
    """Where ``node`` is, as messages say it."""
    return f"layer {path_of(node)!r}" if path_of(node) else "the trunk's forward"


def packed(value: Tensor) -> dict[str, Any]:
    """A tensor as JSON, to the bit and small."""
    numbers = value.detach().cpu().contiguous()
    data = zlib.compress(numbers.flatten().view(torch.uint8).numpy().tobytes())
    kind = str(numbers.dtype).partition(".")[2]
    return {"shape": list(numbers.shape), "dtype": kind, "data": base64.b64encode(data).decode()}


def unpacked(options: Mapping[str, Any]) -> Tensor:
    """The tensor that ``packed`` made these of."""
    data = bytearray(zlib.decompress(base64.b64decode(options["data"])))
    return torch.frombuffer(data, dtype=getattr(torch, options["dtype"])).reshape(options["shape"])


def shape_of(node: Node, index: int | None = None) -> tuple[Any, ...]:
    """Shape of what ``node`` computes, of one output if it has several."""
    value = node.meta["val"]
    return tuple(value.shape if index is None else value[index].shape)


def writes(node: Node) -> bool:
    """Whether the operation writes into what it is given."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable and bool(node.all_input_nodes)


def batch_dim(shape: tuple[Any, ...]) -> int | None:
    """Which dimension is the batch, the only one whose size is symbolic."""
    found = [i for i, n in enumerate(shape) if isinstance(n, torch.SymInt)]
    return found[0] if found else None


def counts_rows(node: Node | None) -> bool:
    """Whether it is the number of each row (N, 1, ..., 1)."""
    if node is None or batch_dim(shape_of(node)) != 0 or set(shape_of(node)[1:]) > {1}:
        return False
    shape = shape_of(node)
    while str(node.target).split(".")[1:2] in (["slice"], ["unsqueeze"], ["view"], ["reshape"]):
        node = node.all_input_nodes[0]
    first = node.args[0] if len(node.args) > 1 else 0
    counted = str(node.target).startswith("aten.arange.") and first == 0 and node.args[2:] in ((), (1,))
    return bool(counted) and str(shape_of(node)[0]) == str(shape[0])
