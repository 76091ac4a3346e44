"""Prefixes: graphs for pinned requests that run only what the first tasks own.

ONNX Runtime computes every node of a graph whatever is fetched, so a request that is pinned to an early
task is answered by a graph of its own, cut from the whole one: the nodes that lead to the first
tasks' logits, unchanged, and no router. Its heads have the digests that they have in the whole graph.
Imports neither torch nor eideticnet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx

from eideticnet.export.graph.tail import TailRule, attach_pinned


def prefix(body: onnx.ModelProto, rule: TailRule, tasks: int) -> onnx.ModelProto:
    """The graph that answers requests pinned to one of the first ``tasks`` tasks of ``rule``."""
    first = rule.first(tasks)
    return attach_pinned(cut(body, first.heads), first)


def cut(body: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """``body`` with only the nodes and tensors that lead to ``outputs``, in their order."""
    needed, nodes = set(outputs), []
    for node in reversed(body.graph.node):
        if needed.intersection(node.output):
            needed.update(name for name in node.input if name)
            nodes.append(node)
    smaller = onnx.ModelProto()
    smaller.CopyFrom(body)
    graph = smaller.graph
    parts: tuple[tuple[Any, list[Any]], ...] = (
        (graph.node, list(reversed(nodes))),
        (graph.initializer, [t for t in body.graph.initializer if t.name in needed]),
        (graph.output, [o for o in body.graph.output if o.name in outputs]),
    )
    for items, kept in parts:
        del items[:]
        items.extend(kept)
    return smaller
