"""Values computed from parameters alone: a table looked up by constant indices, a scale's exponential."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from eideticnet.rules import OPERATIONS, RULES
from eideticnet.trace.constants import fold


def made_of(node: Node, weights: Mapping[str, str], tensors: Mapping[str, Any]) -> dict[Node, Tensor | None]:
    """What ``node`` is computed from, in order, itself the last, with the values of what is made of no
    parameter."""
    needed, waiting = dict[Node, Tensor | None](), [node]
    while waiting:
        if (last := waiting.pop()) not in needed:
            constant = fold(last, weights, tensors) if last.op == "call_function" else None
            needed[last] = constant.value if constant is not None and constant.parameter is None else None
            waiting.extend(last.all_input_nodes if needed[last] is None else ())
    return {n: needed[n] for n in node.graph.nodes if n in needed}


@torch.enable_grad()
def sources(
    node: Node, dim: int | None, weights: Mapping[str, str], tensors: Mapping[str, Any]
) -> dict[Node, int | None]:
    """The bare parameters that ``node`` is computed from, each with the dimension along which its numbers
    belong to the neurons that lie along ``dim`` of the result; None where all of them share it.

    Raises ``LookupError`` if the result can't be computed while tracing.
    """
    values, nodes = dict[Node, Any](), made_of(node, weights, tensors)
    for n, known in nodes.items():
        if known is not None:
            values[n] = known
        elif n.op == "placeholder":
            if n.name not in weights:
                raise LookupError(n.name)
            value = tensors[weights[n.name]]
            trained = isinstance(value, nn.Parameter) and value.is_floating_point()
            values[n] = torch.randn_like(value).requires_grad_() if trained else value
        elif "sym" in str(n.target):
            raise LookupError(n.name)
        else:
            args: Any = torch.fx.node.map_arg(n.args, values.__getitem__)
            kwargs: Any = torch.fx.node.map_arg(n.kwargs, values.__getitem__)
            values[n] = n.target(*args, **kwargs)  # type: ignore[operator]
    read = [
        n for n in nodes if n.op == "placeholder" and values[n].requires_grad and _is_bare(n, list(nodes))
    ]
    return _dims(values[node], dim, {n: values[n] for n in read})


def is_layer(node: Node) -> bool:
    """Whether the operation reads weights of its own beside its first operand."""
    rule = OPERATIONS.get(str(node.target))
    return rule is not None and bool(RULES[rule].axes)


def _is_bare(parameter: Node, nodes: Iterable[Node]) -> bool:
    readers = [n for n in nodes if parameter in n.all_input_nodes]
    return any(not is_layer(n) or n.args[0] is parameter for n in readers)


def _dims(result: Tensor, dim: int | None, read: Mapping[Node, Tensor]) -> dict[Node, int | None]:
    """Found by gradients: a column of the result reaches the same column of a parameter, and no other."""
    found: dict[Node, int | None] = dict.fromkeys(read)
    if dim is None or not read:
        return found
    columns = result.shape[dim]
    reached = {
        j: torch.autograd.grad(
            result.select(dim, j).sum(), list(read.values()), retain_graph=True, allow_unused=True
        )
        for j in (0, 1, columns - 1)
    }
    for i, (node, value) in enumerate(read.items()):
        grads = {j: each[i] for j, each in reached.items()}
        for d in range(-value.ndim, 0):
            if value.shape[d] == columns and all(g is not None and _only(g, d, j) for j, g in grads.items()):
                found[node] = d
    return found


def _only(gradient: Tensor, dim: int, column: int) -> bool:
    """Whether it is zero except in one column."""
    rest = gradient.clone()
    rest.select(dim, column).zero_()
    return bool(gradient.any()) and not bool(rest.any())
