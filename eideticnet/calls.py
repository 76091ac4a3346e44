"""What a rule sees while a trunk is traced: one call of an operation, and the groups so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.fx import Node

from eideticnet.errors import UnsupportedError
from eideticnet.program import Features, Run

Layer = TypeVar("Layer", bound=nn.Module)


@dataclass(frozen=True)
class Call:
    """One call of an ATen operation: its tensor ``inputs`` by name and where their features lie.

    ``weights`` maps the graph's placeholders to the dotted names of the trunk's tensors.
    """

    node: Node
    operation: str
    inputs: tuple[str, ...]
    features: tuple[Features, ...]
    trunk: nn.Module
    weights: dict[str, str]

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def shape(self) -> tuple[Any, ...]:
        """The output's shape; its first entry is symbolic, the batch size."""
        return tuple(self.node.meta["val"].shape)

    @property
    def path(self) -> str:
        """Dotted path of the innermost module that the call belongs to; "" is the trunk."""
        stack = self.node.meta.get("nn_module_stack") or {"": ("", None)}
        return str(list(stack.values())[-1][0])

    @property
    def same_shape(self) -> bool:
        """Whether all tensor inputs that are not weights have the output's shape."""
        read = [n.meta["val"] for n in self.node.all_input_nodes if n.name not in self.weights]
        return all(v.shape == self.node.meta["val"].shape for v in read if isinstance(v, Tensor))

    def stock_layer(self, kind: type[Layer]) -> tuple[str, Layer]:
        """Path and module of the stock layer whose own weights this call uses."""
        layer = self.trunk.get_submodule(self.path)
        if not isinstance(layer, kind) or type(layer).forward is not kind.forward:
            raise self.refuse("is used with a bare parameter", f"nn.{kind.__name__}")
        for node in self.node.all_input_nodes[1:]:
            owner = self.weights.get(node.name, "").rpartition(".")[0]
            if owner != self.path:
                problem = f"shares a tensor with {owner!r}" if owner else "uses a computed weight"
                raise self.refuse(problem, "a weight of its own")
        return self.path, layer

    def arguments(self) -> list[Any]:
        """The call's positional arguments as JSON, tensors replaced by ``{"input": i}``."""
        nodes = [a for a in self.node.args if isinstance(a, Node)]
        if len(nodes) != len(self.inputs) or any(isinstance(v, Node) for v in self.node.kwargs.values()):
            raise self.refuse("takes a bare parameter, a buffer or a size", "a layer from the README's list")
        return [{"input": nodes.index(a)} if isinstance(a, Node) else a for a in self.node.args]

    def refuse(self, problem: str, instead: str = "") -> UnsupportedError:
        """The error that names operation, layer and, where there is one, what to use."""
        layer = f"layer {self.path!r}" if self.path else "the trunk's forward"
        advice = f"; use {instead}" if instead else ""
        return UnsupportedError(f"{self.operation} in {layer} {problem}{advice} (node {self.name})")


@dataclass
class Groups:
    """Feature groups as a union-find: neurons that an operation adds up belong together."""

    capacity: dict[str, int] = field(default_factory=dict)
    _parent: dict[str, str] = field(default_factory=dict)
    _read_by: dict[str, Features] = field(default_factory=dict)

    def of_layer(self, path: str, read: Features, width: int) -> str:
        """The group that the layer ``path`` writes; a layer called again must read the same."""
        if path not in self.capacity:
            self.capacity[path], self._parent[path] = width, path
        self.read_alike(path, read)
        return path

    def read_alike(self, path: str, read: Features) -> None:
        """Every call of the layer ``path`` reads the same group, since it has one set of weights."""
        if not self.join(self._read_by.setdefault(path, read), read):
            raise UnsupportedError(
                f"layer {path!r} is called on values whose features do not correspond; "
                "use a layer of its own for each"
            )

    def join(self, a: Features, b: Features) -> bool:
        """Make the groups of two values one; False if their features do not correspond."""
        if a.dim != b.dim or len(a.runs) != len(b.runs):
            return False
        for x, y in zip(a.runs, b.runs, strict=True):
            left, right = self.root(x.group), self.root(y.group)
            if x.repeat != y.repeat or self.capacity[left] != self.capacity[right]:
                return False
            first, second = sorted((left, right), key=list(self.capacity).index)
            self._parent[second] = first
        return True

    def root(self, group: str) -> str:
        while self._parent[group] != group:
            group = self._parent[group]
        return group

    def resolve(self, features: Features) -> Features:
        """The same features with every group named by its root."""
        return Features(features.dim, tuple(Run(self.root(r.group), r.repeat) for r in features.runs))

    def widths(self) -> dict[str, int]:
        """Capacity of each distinct group."""
        return {g: n for g, n in self.capacity.items() if self.root(g) == g}
