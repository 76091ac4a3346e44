"""What a trunk does only while it trains: its graph in training mode beside the one in evaluation mode."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from torch.export import ExportedProgram
from torch.fx import Node

from eideticnet.calls import path_of, place, writes
from eideticnet.errors import UnsupportedError
from eideticnet.exported import is_random, is_value, live, tensors_of
from eideticnet.rules.training import in_training

_TOLD_TO_RULES = {
    "aten.dropout.default": ("p", "train"),
    "aten.feature_dropout.default": ("p", "train"),
    "aten.alpha_dropout.default": ("p", "train"),
    "aten.feature_alpha_dropout.default": ("p", "train"),
    "aten.scaled_dot_product_attention.default": ("dropout_p",),
    "aten.batch_norm.default": ("training", "momentum"),
}
"""Arguments that may differ, because the operation's rule looks at both."""


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
    """Twins are found by their order, then every twin's arguments are compared."""

    def __init__(self, evaluation: ExportedProgram, training: ExportedProgram) -> None:
        (here, self.output), (there, self.end) = live(evaluation.graph), live(training.graph)
        names = {tensors_of(training).get(n.name, n.name): n for n in there if n.op == "placeholder"}
        self.found = Modes()
        for node in here:
            if node.op == "placeholder":
                self.found.twins[node] = names[tensors_of(evaluation).get(node.name, node.name)]
        self.weights = set(map(names.get, tensors_of(training).values()))
        ours, theirs = list(_operations(here)), list(_operations(there))
        matcher = SequenceMatcher(None, [*map(_key, ours)], [*map(_key, theirs)], autojunk=False)
        for i, j, count in matcher.get_matching_blocks():
            self.found.twins |= zip(ours[i : i + count], theirs[j : j + count], strict=True)
        self.back = {twin: node for node, twin in self.found.twins.items()}
        self.theirs = theirs

    def modes(self) -> Modes:
        for node in self.theirs:
            if writes(node) and node not in self.back:
                self._check_write(node)
        for node, twin in list(self.found.twins.items()):
            if node.op != "placeholder":
                self._compare(node, twin)
        self._read_alike(self.output, self.output.args, self.end.args)
        return self.found

    def _check_write(self, node: Node) -> None:
        written = node.all_input_nodes[0]
        if (written in self.weights or written in self.back) and "num_batches_tracked" not in written.name:
            raise UnsupportedError(
                f"{node.target} in {place(node)} writes into a tensor only while the trunk trains, which "
                f"no task would do; compute a new one in both modes (node {node.name})"
            )

    def _compare(self, node: Node, twin: Node) -> None:
        told = _TOLD_TO_RULES.get(str(node.target), ())
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
        self._differ(node, ours, theirs)
        return True

    def _differ(self, node: Node, ours: Node, theirs: Node) -> None:
        """``node`` reads ``theirs`` while the trunk trains."""
        added, bases = self._added(theirs)
        calls = in_training(added, self.found.twins[ours]) if bases == {ours} and added else None
        if calls is not None:
            self.found.inserted[node, ours] = calls
            return
        what = next(filter(is_random, added), theirs)
        words = f"{what.target} in {place(what)}"
        if not is_random(what):
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


def _operations(nodes: list[Node]) -> Iterator[Node]:
    yield from (n for n in nodes if n.op == "call_function" and is_value(n))


def _key(node: Node) -> tuple[object, ...]:
    index = node.args[1] if node.target is operator.getitem else None
    return str(node.target), path_of(node), index


def _arguments(node: Node, twin: Node) -> Iterator[tuple[str, Any, Any]]:
    """Name and both values of each argument of two calls of one operation."""
    schema = getattr(node.target, "_schema", None)
    names = [a.name for a in schema.arguments] if schema else list(map(str, range(len(node.args))))
    ours, theirs = ({**dict(zip(names, n.args, strict=False)), **n.kwargs} for n in (node, twin))
    for name in names:
        yield name, ours.get(name), theirs.get(name)
