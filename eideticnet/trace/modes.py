"""What a trunk does only while it trains: its graph in training mode beside the one in evaluation mode."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch.export import ExportedProgram
from torch.fx import Node

from eideticnet.errors import UnsupportedError
from eideticnet.rules.calls import path_of, place, writes
from eideticnet.rules.training import LOCAL, in_training
from eideticnet.trace.exported import is_random, is_value, live, tensors_of

_DROPOUTS = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
TOLD_TO_RULES = {
    **{f"aten.{name}.default": ("train", "p") for name in _DROPOUTS},
    "aten.scaled_dot_product_attention.default": ("dropout_p",),
    "aten.batch_norm.default": ("training", "momentum"),
    "aten.rrelu.default": ("training",),
}
"""Arguments that may differ, because the operation's rule looks at both. By the first one a stock layer says
that it trains."""
_SAME_NUMBERS = {"aten.contiguous.default", "aten.clone.default", "aten.alias.default"}


@dataclass
class Modes:
    """The training graph as seen from the other: ``twins`` are the same operations there; ``inserted`` tells
    what one of them reads instead of a value, by reader and value; ``lost`` what can't be carried over."""

    twins: dict[Node, Node] = field(default_factory=dict)
    inserted: dict[tuple[Node, Node], list[dict[str, Any]]] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)


def compared(evaluation: ExportedProgram, training: ExportedProgram) -> Modes:
    """Raise ``UnsupportedError`` where what is learned would silently be another function."""
    return _Comparison(evaluation, training).modes()


class _Comparison:
    """Twins are found in order, by operation, layer and what they read; then their arguments are compared."""

    def __init__(self, evaluation: ExportedProgram, training: ExportedProgram) -> None:
        (here, self.output), (there, self.end) = live(evaluation.graph), live(training.graph)
        ours, theirs = tensors_of(evaluation), tensors_of(training)
        names = {theirs.get(n.name, n.name): n for n in there if n.op == "placeholder"}
        self.weights = {names[name] for name in theirs.values()}
        self.found, self.theirs = Modes(), list(_operations(there))
        self.back: dict[Node, Node] = {}
        for node in here:
            twin = names.get(ours.get(node.name, node.name))
            if node.op == "placeholder" and twin is not None:  # only one mode may have made a constant
                self._pair(node, twin)
        places, start = defaultdict[object, list[int]](list), 0
        for i, twin in enumerate(self.theirs):
            places[_key(twin)].append(i)
        for node in _operations(here):
            later = (i for i in places[_key(node)] if i >= start)
            found = next((i for i in later if self._reads_alike(node, self.theirs[i])), None)
            if found is not None:
                start = found + 1
                self._pair(node, self.theirs[found])

    def _pair(self, node: Node, twin: Node) -> None:
        self.found.twins[node], self.back[twin] = twin, node

    def _reads_alike(self, node: Node, twin: Node) -> bool:
        """Whether ``twin`` reads what ``node`` does, or what only one of the two graphs makes of it."""
        if len(node.all_input_nodes) != len(twin.all_input_nodes):
            return False
        for ours, theirs in zip(node.all_input_nodes, twin.all_input_nodes, strict=True):
            if theirs in self.back:
                if self.back[theirs] is not ours:
                    return False
            elif is_value(ours) and ours in self.found.twins and self._added(theirs)[1] != {ours}:
                return False
        return True

    def modes(self) -> Modes:
        for node in self.theirs:
            if writes(node) and node not in self.back:
                self._check_write(node)
        for node, twin in list(self.found.twins.items()):
            if node.op != "placeholder":
                self._compare(node, twin)
        if not self._read_alike(self.output, self.output.args, self.end.args):
            raise UnsupportedError("the trunk returns another thing while it trains; return the features")
        return self.found

    def _check_write(self, node: Node) -> None:
        written = node.all_input_nodes[0]
        if (written in self.weights or written in self.back) and "num_batches_tracked" not in written.name:
            raise UnsupportedError(
                f"{node.target} in {place(node)} writes into a tensor only while the trunk trains, which "
                f"no task would do; compute a new one in both modes (node {node.name})"
            )

    def _compare(self, node: Node, twin: Node) -> None:
        told = TOLD_TO_RULES.get(str(node.target).replace("_.", "."), ())  # in place or not
        for name, ours, theirs in _arguments(node, twin):
            if name not in told and not self._read_alike(node, ours, theirs):
                raise UnsupportedError(
                    f"{node.target} in {place(node)} takes other numbers while the trunk trains ({theirs} "
                    f"instead of {ours}); use the same in both modes (node {node.name})"
                )

    def _read_alike(self, node: Node, ours: Any, theirs: Any) -> bool:
        """Whether two arguments are the same, up to what is inserted."""
        if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple) and len(ours) == len(theirs):
            return all(self._read_alike(node, a, b) for a, b in zip(ours, theirs, strict=True))
        if not isinstance(ours, Node) or not isinstance(theirs, Node):
            return bool(ours == theirs)
        if not is_value(ours) or self.back.get(theirs) is ours:
            return True
        if self.back.get(_numbers(theirs)) is _numbers(ours):
            return True
        self._differ(node, ours, theirs)
        return True

    def _differ(self, node: Node, ours: Node, theirs: Node) -> None:
        """``node`` reads ``theirs`` while the trunk trains."""
        added, bases = self._added(theirs)
        if bases == {ours} and {str(n.target) for n in added} <= _SAME_NUMBERS:
            return
        calls = in_training(added, self.found.twins[ours]) if bases == {ours} and added else None
        if calls is not None:
            self.found.inserted[node, ours] = calls
            return
        learned = [n for n in added if self.weights.intersection(n.all_input_nodes)]
        drawn = [n for n in added if is_random(n)]
        # the first is what makes it another
        other = [n for n in added if n in learned or str(n.target) not in LOCAL]
        (what, *_) = (drawn if drawn and not learned else other) or added or [theirs]
        words = f"{what.target} in {place(what)}"
        if learned or not drawn:
            raise UnsupportedError(
                f"{words} is computed only while the trunk trains, so tasks would learn another function; "
                f"compute the same in both modes (node {what.name})"
            )
        self.found.lost.append(
            f"{words} draws random numbers only while the trunk trains; tasks learn without"
        )

    def _added(self, last: Node) -> tuple[list[Node], set[Node]]:
        """The operations without twin that ``last`` depends on, in order, and what of the other graph they
        read."""
        waiting, added, bases = [last], set[Node](), set[Node]()
        while waiting:
            node = waiting.pop()
            if node in self.back:
                bases.add(self.back[node])
            elif node not in added and is_value(node):
                added.add(node)
                waiting.extend(node.all_input_nodes)
        return [n for n in self.theirs if n in added], bases


def _numbers(node: Node) -> Node:
    """The value of which ``node`` is a copy, or shows the same numbers."""
    while str(node.target) in _SAME_NUMBERS:
        node = node.all_input_nodes[0]
    return node


def _operations(nodes: list[Node]) -> Iterator[Node]:
    yield from (n for n in nodes if n.op == "call_function" and is_value(n))


def _key(node: Node) -> tuple[object, ...]:
    index = node.args[1] if node.target is operator.getitem else None
    return str(node.target), path_of(node), index


def _arguments(node: Node, twin: Node) -> Iterator[tuple[str, Any, Any]]:
    """Name and both values of each argument of two calls of one operation."""
    schema = getattr(node.target, "_schema", None)
    defaults = {a.name: a.default_value for a in schema.arguments} if schema else {}
    names = list(defaults or map(str, range(len(node.args))))
    ours, theirs = ({**defaults, **dict(zip(names, n.args, strict=False)), **n.kwargs} for n in (node, twin))
    for name in names:
        yield name, ours.get(name), theirs.get(name)
