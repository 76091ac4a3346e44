"""The tail of a graph: from logits to an answer, built from ``bundle.json`` alone.

It does in ONNX what ``eideticnet.decision`` does eagerly. Being a function of the bundle, it is built
again to check a graph from elsewhere: what decides and answers there is this and nothing else.
Values: ``all`` (N, sum of C_t) are the logits of the answering heads side by side, a *grid* is
(N, T, W), W the most classes, with -inf past a task's own ones. Imports neither torch nor eideticnet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
from onnx import numpy_helper

from eideticnet.contract.bundle import Bundle

X, PINNED, THRESHOLD = "x", "pinned_task", "threshold"
INPUTS = (X, PINNED, THRESHOLD)
OUTPUTS = ("task", "label", "task_probs", "label_probs", "logits")
PREFIX_INPUTS = (X, PINNED)
PREFIX_OUTPUTS = ("task", "label", "label_probs", "logits")
ROUTER = "logits_router"

Array = npt.NDArray[Any]


def logits_name(owner: str) -> str:
    """The value of a graph that holds the unpadded logits of this owner's head."""
    return f"logits_{owner}"


@dataclass(frozen=True)
class TailRule:
    """What a tail is made of: the value with each answering task's logits and how many they are,
    and the rule that chooses among them (``eideticnet.FittedRouting``)."""

    heads: tuple[str, ...]
    counts: tuple[int, ...]
    decision: str
    router: bool
    temperature: float
    head_temperatures: tuple[float, ...]

    @classmethod
    def of(cls, bundle: Bundle) -> TailRule:
        """The rule that ``bundle.json`` states."""
        tasks, routing = bundle.tasks, bundle.routing
        assert routing.decision is not None, "every bundle has one since proofs need it"
        return cls(
            tuple(logits_name(task.owner) for task in tasks),
            tuple(len(task.classes) for task in tasks),
            routing.decision,
            routing.router != "none",
            float(routing.temperature),
            tuple(map(float, routing.head_temperatures)),
        )

    @property
    def widest(self) -> int:
        return max(self.counts)

    def first(self, tasks: int) -> TailRule:
        """The rule of the first ``tasks`` tasks."""
        return replace(self, heads=self.heads[:tasks], counts=self.counts[:tasks])


def attach(body: onnx.ModelProto, rule: TailRule) -> onnx.ModelProto:
    """A whole graph: ``body``, whose outputs are logits, with the tail that routes and answers."""
    signature = f"int64[batch] {PINNED}, float[batch] {THRESHOLD}"
    steps = [*_grid(rule, "all"), *_scores(rule), *_choice(), *_reading(rule), *_unknown()]
    return _joined(body, rule, signature, OUTPUTS, steps)


def attach_pinned(body: onnx.ModelProto, rule: TailRule) -> onnx.ModelProto:
    """A graph for pinned requests alone: no router, no probabilities of tasks. It fails at a row
    that is pinned to none of ``rule``'s tasks."""
    refuse = ["zero_task = Constant <value_int = 0> ()", f"free = Less ({PINNED}, zero_task)"]
    refuse += [f"tasks = Constant <value_int = {len(rule.counts)}> ()"]
    refuse += [f"chosen = Where (free, tasks, {PINNED})", "task = Identity (chosen)"]
    steps = [*_grid(rule, "all"), *refuse, *_reading(rule), "label = Identity (best_label)"]
    return _joined(body, rule, f"int64[batch] {PINNED}", PREFIX_OUTPUTS, steps)


def detach(model: onnx.ModelProto, outputs: Iterable[str]) -> onnx.ModelProto:
    """The body of a graph again; ``outputs`` names the logits that it gives."""
    body = onnx.ModelProto()
    body.CopyFrom(model)
    graph = body.graph
    _keep(graph.node, lambda node: not any(_is_tail(name) for name in node.output))
    _keep(graph.initializer, lambda tensor: not tensor.name.startswith(_OWN))
    _keep(graph.input, lambda value: value.name == X)
    del graph.output[:]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return body


_OWN = "tail_"


def _is_tail(name: str) -> bool:
    return name.startswith(_OWN) or name in OUTPUTS


def _keep(items: Any, wanted: Any) -> None:
    kept = [item for item in items if wanted(item)]
    del items[:]
    items.extend(kept)


def _grid(rule: TailRule, source: str) -> list[str]:
    """``grid`` of the heads' logits."""
    heads = ", ".join(rule.heads)
    return [f"{source} = Concat <axis = 1> ({heads})", *_spread(rule, source, "grid")]


def _spread(rule: TailRule, source: str, grid: str) -> list[str]:
    """(N, sum of C_t) as a grid."""
    if set(rule.counts) == {rule.widest}:
        return [f"{grid} = Reshape ({source}, grid_shape)"]
    padded = f'{grid}_padded = Pad <mode = "constant"> ({source}, one_more, minus_inf)'
    return [padded, f"{grid} = Gather <axis = 1> ({grid}_padded, places)"]


def _scores(rule: TailRule) -> list[str]:
    """``task_probs`` by the rule's decision."""
    steps, terms = list[str](), list[str]()
    if rule.decision != "hard":
        tempered = "tempered" if rule.head_temperatures else "grid"
        steps += ["tempered = Div (grid, head_temperatures)"] if rule.head_temperatures else []
        steps += [f"label_log = LogSoftmax <axis = 2> ({tempered})"]
    if rule.router:
        steps += [
            f"router_log = LogSoftmax <axis = 1> ({ROUTER})",
            *_spread(rule, "router_log", "router_grid"),
        ]
        steps += ["by_task = ReduceLogSumExp <keepdims = 0> (router_grid, last)"]
    else:
        steps += ["label_p = Exp (label_log)", "surprise = Mul (label_p, label_log)"]
        steps += ["own_surprise = Where (own, surprise, zero)"]
        steps += ["entropy = ReduceSum <keepdims = 0> (own_surprise, last)"]
        steps += ["by_task = Div (entropy, uniform)"]
    steps += ["routed_scores = Div (by_task, temperature)"]
    terms += ["routed_scores"]
    if rule.decision == "joint":
        steps += ["surest = ReduceMax <keepdims = 0> (label_log, last)"]
        steps += ["scores = Add (routed_scores, surest)"]
        terms = ["scores"]
    return [*steps, f"task_probs = Softmax <axis = 1> ({terms[0]})"]


def _choice() -> list[str]:
    """``chosen`` (N,): the pinned task, else the likeliest."""
    return [
        "best_task = ArgMax <axis = 1, keepdims = 0> (task_probs)",
        "zero_task = Constant <value_int = 0> ()",
        f"routed = Less ({PINNED}, zero_task)",
        f"chosen = Where (routed, best_task, {PINNED})",
    ]


def _reading(rule: TailRule) -> list[str]:
    """What the chosen head says."""
    padded = set(rule.counts) != {rule.widest}
    masked = "masked" if padded else "logits"
    steps = [
        "index = Unsqueeze (chosen, first)",
        f"{masked} = GatherND <batch_dims = 1> (grid, index)",
        f"label_probs = Softmax <axis = 1> ({masked})",
        f"best_label = ArgMax <axis = 1, keepdims = 0> ({masked})",
    ]
    if padded:
        steps += ["mine = Gather <axis = 0> (own, chosen)", "logits = Where (mine, masked, zero)"]
    return steps


def _unknown() -> list[str]:
    """``task`` and ``label``: -1 where nothing is likely enough."""
    return [
        "likeliest = ReduceMax <keepdims = 0> (task_probs, first)",
        f"unsure = Less (likeliest, {THRESHOLD})",
        "unknown = And (routed, unsure)",
        "none = Constant <value_int = -1> ()",
        "task = Where (unknown, none, chosen)",
        "label = Where (unknown, none, best_label)",
    ]


def _tables(rule: TailRule) -> dict[str, Array]:
    """Constants that a step may name."""
    tasks, widest = len(rule.counts), rule.widest
    own = np.array([[c < count for c in range(widest)] for count in rule.counts])
    places = np.full((tasks, widest), sum(rule.counts))
    places[own] = np.arange(sum(rule.counts))
    uniform = np.log(np.array(rule.counts, np.float64)).astype(np.float32)
    return {
        "grid_shape": np.array([0, tasks, widest]),
        "one_more": np.array([0, 0, 0, 1]),
        "minus_inf": np.array(-np.inf, np.float32),
        "zero": np.array(0.0, np.float32),
        "places": places,
        "own": own,
        "first": np.array([1]),
        "last": np.array([2]),
        "uniform": uniform,
        "temperature": np.array(rule.temperature, np.float32),
        "head_temperatures": np.array(rule.head_temperatures, np.float32)[:, None],
    }


def _joined(
    body: onnx.ModelProto, rule: TailRule, signature: str, outputs: tuple[str, ...], steps: list[str]
) -> onnx.ModelProto:
    """``body`` followed by ``steps``, which the operators' textual syntax spells out."""
    types = {
        **dict.fromkeys(("task", "label"), "int64[batch]"),
        "task_probs": f"float[batch, {len(rule.counts)}]",
        **dict.fromkeys(("label_probs", "logits"), f"float[batch, {rule.widest}]"),
    }
    results = ", ".join(f"{types[name]} {name}" for name in outputs)
    tail = onnx.parser.parse_graph(f"tail ({signature}) => ({results}) {{ {' '.join(steps)} }}")
    shared = {*rule.heads, *INPUTS, *OUTPUTS, ROUTER}
    for node in tail.node:
        node.input[:] = [n if n in shared else _OWN + n for n in node.input]
        node.output[:] = [n if n in shared else _OWN + n for n in node.output]
        node.name = _OWN + node.output[0].removeprefix(_OWN)
    used = {name for node in tail.node for name in node.input}
    model = onnx.ModelProto()
    model.CopyFrom(body)
    model.graph.input.extend(tail.input)
    model.graph.node.extend(tail.node)
    tables = ((_OWN + name, table) for name, table in _tables(rule).items())
    model.graph.initializer.extend(numpy_helper.from_array(t, name) for name, t in tables if name in used)
    del model.graph.output[:]
    model.graph.output.extend(tail.output)
    return model
