"""Several operations that only show a value otherwise and together put its channels into another order."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Graph, Node

from eideticnet.rules.calls import batch_dim, shape_of

ROWS = 3
_SHOWING = """view.default reshape.default _unsafe_view.default transpose.int permute.default
    contiguous.default clone.default flatten.using_ints unflatten.int select.int slice.Tensor unbind.int
    movedim.int movedim.intlist swapaxes.default swapdims.default moveaxis.int unsqueeze.default squeeze.dim
    squeeze.dims view_as.default reshape_as.default channel_shuffle.default"""
SHOWING = {f"aten.{name}" for name in _SHOWING.split()}


class Selection(NamedTuple):
    """The value that is shown, and which of its indices along ``dim``, in which order."""

    source: Node
    dim: int
    columns: list[int]


def selections(graph: Graph) -> tuple[dict[Node, Selection], set[Node]]:
    """The last operation of each such chain, and those that only these need.

    Which number goes where is tried with numbers that are all different.
    """
    found, shown = dict[Node, Selection](), dict[Node, tuple[Node, Any]]()
    for node in graph.nodes:
        if node.op != "call_function" or not node.args or not isinstance(node.args[0], Node):
            continue
        if str(node.target) not in SHOWING and node.target is not operator.getitem:
            continue
        source, value = shown.get(node.args[0], (node.args[0], None))
        value = _numbered(source) if value is None else value
        if value is None or (value := _run(node, value)) is None:
            continue
        selection = _selection(source, value) if isinstance(value, Tensor) else None
        if selection is not None:
            found[node] = selection
        else:
            shown[node] = source, value
    inner = set[Node]()
    for node in reversed(list(shown)):
        if node.users and all(user in found or user in inner for user in node.users):
            inner.add(node)
    return found, inner


def _numbered(source: Node) -> Tensor | None:
    value = source.meta.get("val")
    if not isinstance(value, Tensor) or batch_dim(shape_of(source)) != 0:
        return None
    shape = ROWS, *value.shape[1:]
    return torch.arange(ROWS * value[0].numel()).reshape(shape)


def _run(node: Node, value: Any) -> Any:
    """What an operation makes of numbers in the place of its first argument; None if that can't be told."""
    try:
        args = [_actual(a) for a in node.args[1:]]
        return node.target(value, *args, **{k: _actual(v) for k, v in node.kwargs.items()})  # type: ignore[operator]
    except (RuntimeError, LookupError, TypeError, ValueError):
        return None


def _actual(argument: Any) -> Any:
    """An argument, with ``ROWS`` rows."""
    if isinstance(argument, list | tuple):
        return [_actual(a) for a in argument]
    value = argument.meta["val"] if isinstance(argument, Node) else argument
    if isinstance(value, torch.SymInt):
        expression = value.node.expr
        return int(expression.subs(dict.fromkeys(expression.free_symbols, ROWS)))
    if isinstance(argument, Node):
        return torch.empty(_actual(value.shape))
    return argument


def _selection(source: Node, value: Tensor) -> Selection | None:
    """Along which one dimension the value's numbers are those of the source in another order, if so."""
    numbers = _numbered(source)
    if numbers is None or numbers.ndim != value.ndim or not value.numel() or torch.equal(numbers, value):
        return None
    for dim in range(1, numbers.ndim):
        first = [0] * numbers.ndim
        first[dim] = slice(None)  # type: ignore[call-overload]
        along = {n: i for i, n in enumerate(numbers[tuple(first)].tolist())}
        columns = [along.get(n, -1) for n in value[tuple(first)].tolist()]
        if min(columns, default=-1) >= 0 and torch.equal(
            numbers.index_select(dim, torch.tensor(columns)), value
        ):
            return Selection(source, dim, columns)
    return None
