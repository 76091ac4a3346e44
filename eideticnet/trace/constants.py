"""Values in a traced graph that do not depend on the input, computed once while tracing."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from eideticnet.rules.calls import Constant, counts_rows, shape_of, writes
from eideticnet.trace.exported import is_random

_SHAPES = (
    *("view", "reshape", "unsqueeze", "squeeze", "expand", "flatten", "unflatten", "alias", "detach"),
    *("contiguous", "clone", "slice", "select", "permute", "transpose", "t"),
    *("repeat", "tile", "broadcast_to"),
)
_REPEATS = ("expand", "repeat", "tile", "broadcast_to")
_FILLED = ("zeros", "ones", "full")
_NEW = ("new_zeros", "new_ones", "new_full")
_UNKNOWN = object()


def fold(node: Node, weights: Mapping[str, str], tensors: Mapping[str, Any]) -> Constant | None:
    """The value of ``node``; None if it depends on the input or on the batch size.

    ``weights`` maps placeholders to names, ``tensors`` names to the trunk's tensors. What is only
    repeated for each row of the batch, or filled with one number, keeps its size of one there.
    """
    used: list[str] = []
    value = _value(node, weights, tensors, used)
    if not isinstance(value, Tensor):
        return None
    trained = [name for name in used if isinstance(tensors[name], torch.nn.Parameter)]
    if not trained:
        return Constant(value.detach())
    return Constant(value.detach(), trained[0], _shown_by(node, weights, tensors))


def _shown_by(node: Node, weights: Mapping[str, str], tensors: Mapping[str, Any]) -> str | None:
    """The operations that show a parameter in another shape, as text; None if one computes with it."""
    operations = []
    while node.op != "placeholder":
        same = _same_numbers(node, weights, tensors)
        if same is None:
            if _written_through_views(node):
                return None
            name, source = str(node.target).split(".")[1], node.all_input_nodes[0]
            if name not in _SHAPES or len(node.all_input_nodes) > 2:
                return None
            if name in _REPEATS and _size(node) != _size(source):
                return None
            operations.append(f"{node.target}{node.args[1:]}")
        node = source if same is None else same
    return " ".join(operations)


def _same_numbers(node: Node, weights: Mapping[str, str], tensors: Mapping[str, Any]) -> Node | None:
    """The operand of a sum with zeros or a product with ones, which show it for each row of the batch."""
    neutral = {"aten.add.Tensor": 0, "aten.mul.Tensor": 1}.get(str(node.target))
    if neutral is None or len(node.all_input_nodes) != 2 or node.kwargs:
        return None
    for filled, other in (node.all_input_nodes, reversed(node.all_input_nodes)):
        used: list[str] = []
        value = _value(filled, weights, tensors, used)
        if isinstance(value, Tensor) and not used and bool((value == neutral).all()):
            return other if _size(node) == _size(other) else None
    return None


def _size(node: Node) -> int:
    """How many numbers a value has for each row of the batch."""
    return prod(n for n in node.meta["val"].shape if isinstance(n, int))


def _value(node: Any, weights: Mapping[str, str], tensors: Mapping[str, Any], used: list[str]) -> Any:
    """``node``'s value, a literal as it is; ``_UNKNOWN`` for what is not known while tracing."""
    if isinstance(node, list | tuple):
        return [_value(n, weights, tensors, used) for n in node]
    if not isinstance(node, Node):
        return node
    if node.op == "placeholder":
        name = weights.get(node.name)
        if name is None:
            return _UNKNOWN
        used.append(name)
        return tensors[name]
    off = "dropout" in str(node.target) and node.args[2:3] == (False,)
    if "sym" in str(node.target) or (is_random(node) and not off):
        return _UNKNOWN
    if written := _written_through_views(node):
        return _after(node, written, weights, tensors, used)
    return _computed(node, weights, tensors, used)


def _computed(node: Node, weights: Mapping[str, str], tensors: Mapping[str, Any], used: list[str]) -> Any:
    """What the operation gives."""
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    args = [_value(a, weights, tensors, used) for a in node.args[name in _NEW :]]
    if name in _NEW:  # of the type of a value, which tells nothing else
        args = [torch.empty(0, dtype=node.all_input_nodes[0].meta["val"].dtype), *args]
    if name in ("expand", "broadcast_to") and isinstance(args[0], Tensor):
        new = len(args[1]) - args[0].ndim
        args[1] = [(1 if i < new else -1) if n is _UNKNOWN else n for i, n in enumerate(args[1])]
    if name == "index" and isinstance(args[0], Tensor):
        args[1] = _of_any_row(node.args[1], args[1])
    for sizes in args[:1] if name in _FILLED else args[1:2] if name in ("repeat", "tile") else ():
        sizes[:] = [1 if n is _UNKNOWN else n for n in sizes]
    if _unknown(args):
        return _UNKNOWN
    with torch.no_grad():
        return node.target(*args, **node.kwargs)  # type: ignore[operator]


def _of_any_row(nodes: Any, chosen: list[Any]) -> list[Any]:
    """The indices, those of the rows zero: what is indexed has one row, repeated."""
    if not counts_rows(nodes[0]):
        return chosen
    return [torch.zeros([1] * len(shape_of(nodes[0])), dtype=torch.int64), *chosen[1:]]


def _unknown(args: list[Any]) -> bool:
    """Whether an argument, at any depth, has no value."""
    return any(a is _UNKNOWN or (isinstance(a, list) and _unknown(a)) for a in args)


def _written_through_views(node: Node) -> list[Node]:
    """``node``, its views and what writes into them, in order; none if nothing does."""
    shown, waiting = [node], [node]
    while waiting:
        viewed = waiting.pop()
        for user in viewed.users:
            schema = getattr(user.target, "_schema", None)
            if schema is None or user.all_input_nodes[0] is not viewed or user in shown:
                continue
            if any(r.alias_info for r in schema.returns) and not (viewed is node and writes(user)):
                shown.append(user)
                waiting.append(user)
    if not any(writes(n) for n in shown[1:]):
        return []
    return [n for n in node.graph.nodes if n in shown]


def _after(
    node: Node, shown: list[Node], weights: Mapping[str, str], tensors: Mapping[str, Any], used: list[str]
) -> Any:
    """``node``'s value after all that writes into it, if nothing reads it before."""
    places = {n: i for i, n in enumerate(node.graph.nodes)}
    last = max(places[n] for n in shown if writes(n))
    if any(places[user] < last for n in shown for user in n.users if user not in shown):
        return _UNKNOWN
    made = _computed(node, weights, tensors, used)
    world: dict[Node, Any] = {node: made.clone() if isinstance(made, Tensor) else _UNKNOWN}
    for n in shown[1:]:
        args = [
            world[a] if isinstance(a, Node) and a in world else _value(a, weights, tensors, used)
            for a in n.args
        ]
        if _unknown([*world.values(), *args]):
            return _UNKNOWN
        with torch.no_grad():
            world[n] = n.target(*args, **n.kwargs)  # type: ignore[operator]
    return world[node]
