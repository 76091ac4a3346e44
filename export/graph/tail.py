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
    places: tuple[tuple[int, ...], ...] = ()
    classes: int = 0
    """Of a shared label space: what its label is for each task's classes, and how many there are."""

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
            *(() if not bundle.classes else (_places(bundle), len(bundle.classes))),
        )

    @property
    def widest(self) -> int:
        return max(self.counts)

    @property
    def adds(self) -> bool:
        """Whether what tasks say of one class is added up."""
        return bool(self.places) and self.decision == "joint"

    def first(self, tasks: int) -> TailRule:
        """The rule of the first ``tasks`` tasks."""
        mine = {key: getattr(self, key)[:tasks] for key in ("heads", "counts", "places")}
        return replace(self, **mine)


def _places(bundle: Bundle) -> tuple[tuple[int, ...], ...]:
    return tuple(bundle.numbers(task) for task in range(len(bundle.tasks)))


def attach(body: onnx.ModelProto, rule: TailRule) -> onnx.ModelProto:
    """A whole graph: ``body``, whose outputs are logits, with the tail that routes and answers."""
    signature = f"int64[batch] {PINNED}, float[batch] {THRESHOLD}"
    steps = [*_grid(rule, "all"), *_scores(rule), *_choice(rule), *_reading(rule)]
    steps += [*_sureness(rule), *_unknown()]
    return _joined(body, rule, signature, OUTPUTS, steps)


def attach_pinned(body: onnx.ModelProto, rule: TailRule) -> onnx.ModelProto:
    """A graph for pinned requests alone: no router, no probabilities of tasks. It fails at a row
    that is pinned to none of ``rule``'s tasks."""
    rule = replace(rule, decision="hard")  # nothing is added up
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
    if rule.decision == "joint" and not rule.adds:
        steps += ["surest = ReduceMax <keepdims = 0> (label_log, last)"]
        steps += ["scores = Add (routed_scores, surest)"]
        terms = ["scores"]
    return [*steps, f"task_probs = Softmax <axis = 1> ({terms[0]})"]


def _choice(rule: TailRule) -> list[str]:
    """``chosen`` (N,): the pinned task, else the likeliest, or of those that are added up the one which says
    most of the class."""
    best = "best_task = ArgMax <axis = 1, keepdims = 0> (task_probs)"
    return [
        *(_sums() if rule.adds else [best]),
        "zero_task = Constant <value_int = 0> ()",
        f"routed = Less ({PINNED}, zero_task)",
        f"chosen = Where (routed, best_task, {PINNED})",
    ]


def _sums() -> list[str]:
    """What tasks that share their labels say together: ``mixed`` (N, K), its ``best_class``, and the
    ``best_task``, which says most of it."""
    return [
        "label_p = Exp (label_log)",
        "weights = Unsqueeze (task_probs, last)",
        "parts = Mul (label_p, weights)",
        "flat = Reshape (parts, flat_shape)",
        *_added("flat", "all_numbers", "mixed"),
        "best_class = ArgMax <axis = 1, keepdims = 0> (mixed)",
        "wanted = Unsqueeze (best_class, after_rows)",
        "is_wanted = Equal (numbers, wanted)",
        "gives = And (is_wanted, own)",
        "given = Where (gives, parts, minus_one)",
        "most = ReduceMax <keepdims = 0> (given, last)",
        "best_task = ArgMax <axis = 1, keepdims = 0> (most)",
    ]


def _added(values: str, places: str, sums: str) -> list[str]:
    """``values`` (N, M) added up at their ``places``, (M,) or (N, M), in (N, K)."""
    return [
        f"{sums}_rows = Shape <start = 0, end = 1> ({values})",
        f"{sums}_shape = Concat <axis = 0> ({sums}_rows, class_count)",
        f"{sums}_before = Expand (zero, {sums}_shape)",
        f"{sums}_size = Shape ({values})",
        f"{sums}_places = Expand ({places}, {sums}_size)",
        f'{sums} = ScatterElements <axis = 1, reduction = "add"> ({sums}_before, {sums}_places, {values})',
    ]


def _reading(rule: TailRule) -> list[str]:
    """What the chosen head says: ``best_label`` (N,), and the outputs ``label_probs`` and ``logits``."""
    own, probabilities = ("own_label", "own_probs") if rule.places else ("best_label", "label_probs")
    padded = set(rule.counts) != {rule.widest}
    masked = "masked" if padded else "logits"
    steps = [
        "index = Unsqueeze (chosen, first)",
        f"{masked} = GatherND <batch_dims = 1> (grid, index)",
        f"{probabilities} = Softmax <axis = 1> ({masked})",
        f"{own} = ArgMax <axis = 1, keepdims = 0> ({masked})",
    ]
    if padded:
        steps += ["mine = Gather <axis = 0> (own, chosen)", "logits = Where (mine, masked, zero)"]
    return [*steps, *_numbered(rule)] if rule.places else steps


def _numbered(rule: TailRule) -> list[str]:
    """The same among the classes that tasks share, where what they say together may be the answer to a row
    that is routed."""
    label, probs = ("own_class", "own_share") if rule.adds else ("best_label", "label_probs")
    steps = [
        "mine_numbers = Gather <axis = 0> (numbers, chosen)",
        "own_column = Unsqueeze (own_label, first)",
        "own_number = GatherElements <axis = 1> (mine_numbers, own_column)",
        f"{label} = Squeeze (own_number, first)",
        *_added("own_probs", "mine_numbers", probs),
    ]
    if rule.adds:
        steps += [
            "best_label = Where (routed, best_class, own_class)",
            "routed_rows = Unsqueeze (routed, first)",
            "label_probs = Where (routed_rows, mixed, own_share)",
        ]
    return steps


def _sureness(rule: TailRule) -> list[str]:
    """``likeliest`` (N,): how likely the task is, or the class, or one of the tasks that know the class."""
    if rule.places and not rule.adds:
        return [
            "knowing = Gather <axis = 0> (known, best_label)",
            "told = Mul (task_probs, knowing)",
            "likeliest = ReduceSum <keepdims = 0> (told, first)",
        ]
    return [f"likeliest = ReduceMax <keepdims = 0> ({'mixed' if rule.adds else 'task_probs'}, first)"]


def _unknown() -> list[str]:
    """``task`` and ``label``: -1 where nothing is likely enough."""
    return [
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
        **(_numbers(rule) if rule.places else {}),
    }


def _numbers(rule: TailRule) -> dict[str, Array]:
    """Constants of labels that tasks share."""
    numbers = np.zeros((len(rule.places), rule.widest), np.int64)
    known = np.zeros((rule.classes, len(rule.places)), np.float32)
    for task, places in enumerate(rule.places):
        numbers[task, : len(places)] = places
        known[list(places), task] = 1
    return {
        "numbers": numbers,
        "all_numbers": numbers.flatten(),
        "known": known,
        "class_count": np.array([rule.classes]),
        "flat_shape": np.array([0, -1]),
        "after_rows": np.array([1, 2]),
        "minus_one": np.array(-1.0, np.float32),
    }


def _joined(
    body: onnx.ModelProto, rule: TailRule, signature: str, outputs: tuple[str, ...], steps: list[str]
) -> onnx.ModelProto:
    """``body`` followed by ``steps``, which the operators' textual syntax spells out."""
    types = {
        **dict.fromkeys(("task", "label"), "int64[batch]"),
        "task_probs": f"float[batch, {len(rule.counts)}]",
        "label_probs": f"float[batch, {rule.classes or rule.widest}]",
        "logits": f"float[batch, {rule.widest}]",
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
