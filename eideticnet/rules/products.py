"""Products along positions, row by row and neuron by neuron: attention by hand, ``einsum``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from string import ascii_letters
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from eideticnet.program import Features, Step
from eideticnet.rules.base import Rule
from eideticnet.rules.calls import BARE, Call, batch_dim, shape_of
from eideticnet.rules.groups import Groups
from eideticnet.rules.mixing import LinearRule

HEADS = "heads: x.view(N, S, heads, size).transpose(1, 2)"


def multiplied(
    call: Call, groups: Groups, operands: Sequence[Node], terms: Sequence[str]
) -> tuple[list[str], Features, dict[str, Any]]:
    """The names of a product's operands, where its features lie, and how parameters are spread over the rows.

    ``terms`` have a letter for each dimension of every operand and, the last one, of the product. The letter
    of the rows and that of the neurons have to stay, once in each.
    """
    *read, result = terms
    pairs = list(zip(operands, read, strict=True))
    if any(n not in call.operands for n in operands):
        raise call.refuse("multiplies what is computed from parameters or sizes alone", BARE)
    values = [(n, t, call.values[n][1]) for n, t in pairs if n in call.values]
    owned = [(t, features) for _, t, features in values if not features.raw]
    rows = [(t, t[batch_dim(shape_of(n)) or 0]) for n, t, _ in values]
    if len({letter for _, letter in rows}) > 1 or not _stays(rows, result):
        raise call.refuse("combines the rows of a batch with one another")
    trained = any(n in call.constants and call.constants[n].parameter for n in operands)
    if trained and not owned:
        raise call.refuse("mixes the raw input with a parameter", "nn.Linear")
    neurons = [(t, t[features.dim]) for t, features in owned]
    if len({letter for _, letter in neurons}) > 1 or not _stays(neurons, result):
        raise call.refuse("mixes features" + " with a parameter" * trained, "nn.Linear" if trained else HEADS)
    features = owned[0][1] if owned else Features()
    for _, other in owned:
        if not groups.join(features, other.at(features.dim)):
            raise call.refuse("multiplies values whose features do not correspond one to one")
    neuron = neurons[0][1] if owned else ""
    names = [_name(call, n, t, features, neuron) for n, t in pairs]
    spread = [batch_dim(shape_of(n)) if n in call.constants else None for n in operands]
    like = next(i for i, n in enumerate(operands) if n in call.values)
    options = {"spread": spread, "like": [like, batch_dim(shape_of(operands[like]))]}
    where = features.at(result.index(neuron) - len(result)) if neuron else features
    return names, where, options if any(d is not None for d in spread) else {}


def _stays(letters: list[tuple[str, str]], result: str) -> bool:
    return all(term.count(letter) == result.count(letter) == 1 for term, letter in letters)


def _name(call: Call, node: Node, term: str, features: Features, neuron: str) -> str:
    """The step that gives an operand; of a constant each owner has the columns of its neurons."""
    divided = bool(neuron) and neuron in term
    if node in call.constants:
        return call.constant(node, features.at(term.index(neuron) - len(term)) if divided else Features())
    name, own = call.values[node]
    if own.raw and divided and shape_of(node)[term.index(neuron)] != 1:
        raise call.refuse("combines features with a value of the raw input", "a layer on the input first")
    return name


def spread(options: dict[str, Any], inputs: list[Tensor]) -> list[Tensor]:
    """The operands, parameters that the trunk expands to the batch expanded."""
    if "spread" not in options:
        return inputs
    index, dim = options["like"]
    rows = inputs[index].shape[dim]
    return [
        x if there is None else x.expand([rows if d == there else -1 for d in range(x.ndim)])
        for x, there in zip_longest(inputs, options["spread"])  # a mask may follow
    ]


def _layer(call: Call, groups: Groups, operands: Sequence[Node], terms: Sequence[str]) -> Step | None:
    """The step of a product that is a linear layer with a bare parameter for weight; None if it is none."""
    pairs = list(zip(operands, terms, strict=False))
    found = [(n, t) for n, t in pairs if n in call.constants and call.constants[n].shown_by is not None]
    if len(pairs) != 2 or len(found) != 1 or len(call.activations) != 1 or len(found[0][1]) != 2:
        return None
    (weight, of_weight), (read,) = found[0], [t for n, t in pairs if n in call.values]
    features, (new, *_) = call.features, [c for c in of_weight if c not in read] or [""]
    if not new or terms[-1] != read[:-1] + new or not (features.raw or features.dim == -1):
        return None
    return LinearRule().of(call, groups, weight, None, of_weight[1] == new)


class MatmulRule(Rule, name="matmul"):
    """matmul and bmm, as attention is written by hand, or positions are mixed by a parameter."""

    def trace(self, call: Call, groups: Groups) -> Step:
        left, right = operands = call.node.args[:2]
        terms = _of_matmul(len(shape_of(left)), len(shape_of(right)))  # type: ignore[arg-type]
        if (step := _layer(call, groups, operands, terms)) is not None:  # type: ignore[arg-type]
            return step
        names, features, options = multiplied(call, groups, operands, terms)  # type: ignore[arg-type]
        return Step(call.name, "matmul", tuple(names), features, None, options)

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        return torch.matmul(*spread(step.options, inputs))


def _of_matmul(left: int, right: int) -> list[str]:
    """The letters of matmul's operands, of the given numbers of dimensions, and of its product."""
    first, last = "x" * (left > 1), "z" * (right > 1)
    before = ascii_letters[26 : 26 + max(left, right, 2) - 2]
    terms = [before[max(left, right, 2) - max(left, 2) :], before[max(left, right, 2) - max(right, 2) :]]
    return [terms[0] + first + "y", terms[1] + "y" + last, before + first + last]


class EinsumRule(Rule, name="einsum"):
    """einsum of values whose rows and neurons stay apart."""

    def trace(self, call: Call, groups: Groups) -> Step:
        equation, operands = call.node.args[:2]
        terms = _spelled(equation, [len(shape_of(n)) for n in operands])  # type: ignore[arg-type, union-attr]
        if (step := _layer(call, groups, operands, terms)) is not None:  # type: ignore[arg-type]
            return step
        names, features, options = multiplied(call, groups, operands, terms)  # type: ignore[arg-type]
        return Step(call.name, "einsum", tuple(names), features, None, {"equation": equation, **options})

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        return torch.einsum(step.options["equation"], *spread(step.options, inputs))


def _spelled(equation: str, ranks: list[int]) -> list[str]:
    """The terms of an equation, its result the last one, with letters instead of dots."""
    read, arrow, result = equation.replace(" ", "").partition("->")
    terms = read.split(",")
    if not arrow:
        once = sorted(letter for letter in set(read) - {",", "."} if read.count(letter) == 1)
        result = "..." * ("..." in read) + "".join(once)
    pairs = zip(terms, ranks, strict=True)
    missing = [rank - len(t.replace("...", "")) if "..." in t else 0 for t, rank in pairs]
    free = [letter for letter in ascii_letters if letter not in equation][: max(missing)]
    dots = ["".join(free[len(free) - n :]) for n in (*missing, len(free))]
    return [t.replace("...", d) for t, d in zip((*terms, result), dots, strict=True)]
