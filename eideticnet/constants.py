"""Values in a traced graph that do not depend on the input, computed once while tracing."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from eideticnet.calls import Constant, writes
from eideticnet.exported import is_random

_SHAPES = (
    *("view", "reshape", "unsqueeze", "squeeze", "expand", "flatten", "unflatten", "alias", "detach"),
    *("contiguous", "clone", "slice", "select", "permute", "transpose", "t"),
    *("repeat", "tile", "broadcast_to"),
)
_REPEATS = ("expand", "repeat", "tile", "broadcast_to")
_FILLED = ("zeros", "ones", "full")


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
    """``node``'s value, a literal as it is; None for what is not known while tracing."""
    if isinstance(node, list | tuple):
        return [_value(n, weights, tensors, used) for n in node]
    if not isinstance(node, Node):
        return node
    if node.op == "placeholder":
        name = weights.get(node.name)
        if name is None:
            return None
        used.append(name)
        return tensors[name]
    if "sym" in str(node.target) or is_random(node) or _is_written_through_a_view(node):
        return None
    args = [_value(a, weights, tensors, used) for a in node.args]
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    if name in ("expand", "broadcast_to") and isinstance(args[0], Tensor):
        new = len(args[1]) - args[0].ndim
        args[1] = [(1 if i < new else -1) if n is None else n for i, n in enumerate(args[1])]
    for sizes in args[:1] if name in _FILLED else args[1:2] if name in ("repeat", "tile") else ():
        sizes[:] = [1 if n is None else n for n in sizes]
    if _unknown(args):
        return None
    with torch.no_grad():
        return node.target(*args, **node.kwargs)  # type: ignore[operator]


def _unknown(args: list[Any]) -> bool:
    """Whether an argument that was a node has no value, at any depth; a literal None has one too,
    but no operation that makes constants takes any but in its keywords."""
    return any(a is None or (isinstance(a, list) and _unknown(a)) for a in args)


def _is_written_through_a_view(node: Node) -> bool:
    """Whether something writes into a view of ``node``, so that its value is not what made it."""
    for user in node.users:
        schema = getattr(user.target, "_schema", None)
        if schema is None or user.all_input_nodes[0] is not node or writes(user):
            continue
        if any(r.alias_info for r in schema.returns):
            written = [u for u in user.users if u.all_input_nodes[0] is user and writes(u)]
            if written or _is_written_through_a_view(user):
                return True
    return False
