"""Which values of a graph are one another's views, and what only shows a value in another order."""

from __future__ import annotations

from functools import cached_property

import torch
from torch.fx import Node

from eideticnet.errors import UnsupportedError
from eideticnet.rules.calls import writes
from eideticnet.trace.selections import Selection, selections

_NAMED = """view reshape flatten transpose permute select slice squeeze expand narrow chunk split unbind alias
    detach getitem contiguous .t. aten.to. dropout"""
_VIEWS = _NAMED.split()


class Memory:
    """Which values of a graph show the same memory, and in which order they come; which are channels that
    are shuffled."""

    def __init__(self, graph: torch.fx.Graph) -> None:
        self.place = {node: i for i, node in enumerate(graph.nodes)}
        self.shown: dict[Node, list[Node]] = {}
        for node in graph.nodes:
            self.shown.setdefault(base(node), []).append(node)
        self.graph = graph

    @cached_property
    def selections(self) -> tuple[dict[Node, Selection], set[Node]]:
        """What together puts channels into another order, and the operations that only this needs."""
        return selections(self.graph)

    @cached_property
    def shuffles(self) -> bool:
        """Whether there is such a thing, or a convolution in groups."""
        convs = [node for node in self.graph.nodes if "conv" in str(node.target) and len(node.args) > 6]
        return any(conv.args[6] != 1 for conv in convs) or bool(self.selections[0])

    def refuse_views(self, changed: Node, by: Node) -> None:
        """No value but ``changed`` may show the memory that ``by`` writes to."""
        for other in self.shown[base(changed)]:
            earlier = other not in (changed, by) and self.place[other] < self.place[by]
            if earlier and any(self.place[user] > self.place[by] for user in other.users):
                raise UnsupportedError(
                    f"{by.target} writes into a value of which there is a view (node {by.name}); "
                    "use the operation that returns a new tensor"
                )


def base(node: Node) -> Node:
    """The value whose memory ``node`` shows, as far as names tell; dropout that is off shows its input."""
    while node.op == "call_function" and node.all_input_nodes:
        if not writes(node) and not any(word in str(node.target) for word in _VIEWS):
            break
        node = node.all_input_nodes[0]
    return node
