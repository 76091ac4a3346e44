"""Clips: places in a deep trunk where bounds start anew.

The bounds of a value grow about tenfold with each layer, real values don't. So what a layer reads behind many
others is kept between two numbers that no real value reaches, and has these for bounds: that changes no bit.
Where the clips are follows from the steps alone, so they are there in every version and layout.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from eideticnet.bounds import farthest
from eideticnet.inputs import Inputs
from eideticnet.program import HEAD, INPUT, Program, Step
from eideticnet.rules import RULES

DEEP = 8
"""Behind so many layers what a layer reads is clipped."""
SINCE = 4
"""Layers for which a clip counts: about as many make a value as great as it may be then. So many more may be
before what several steps read: in residual nets branches are clipped, which costs a runtime nothing."""
PRODUCT = 12
"""Layers that may be behind what is multiplied, together."""
FARTHEST = 65504.0
"""From zero, for inputs no farther than 1. Half precision ends here, so nothing sensible is beyond."""
_LISTED = {
    "small": """sigmoid tanh hardtanh relu6 hardsigmoid clamp sin cos erf atan softmax sign argmax argmin eq
        ne lt le gt ge""",
    "sum": "linear weighting taps conv conv_part conv_weighting grouped_conv own recurrent",
    "product": "mul addcmul matmul einsum",
    "square": "pow square linalg_vector_norm norm var std",
    "quotient": "div addcdiv",
    "inverse": "rsqrt reciprocal",
}
_SORTS = {name: sort for sort, names in _LISTED.items() for name in names.split()}
"""Rules and operations by what they do to bounds; what is small has bounds of its own."""


def with_clips(program: Program, inputs: Inputs) -> Program:
    """``program`` with clips, if it is deep and inputs have a range."""
    most = farthest(inputs)
    if most is None:
        return program
    limit = FARTHEST * max(1.0, most)
    options = {"op": "aten.clamp.default", "args": [{"input": 0}, -limit, limit], "kwargs": {}}
    readers = dict[str, list[Step]]()
    for step in program.steps:
        for name in step.inputs:
            readers.setdefault(name, []).append(step)
    steps, clipped, behind = list[Step](), dict[str, str](), {INPUT: 0}
    for step in program.steps:
        step = replace(step, inputs=tuple(clipped.get(name, name) for name in step.inputs))
        steps.append(step)
        behind[step.name] = _behind(step, [behind[name] for name in step.inputs])
        read_by = readers.get(step.name, [])
        folded = step.layer is not None and any(reader.rule == "batch_norm" for reader in read_by)
        beside = [
            behind[clipped.get(n, n)]
            for reader in read_by
            for n in reader.inputs
            if _sort(reader) == "product" and n != step.name and n in behind
        ]
        most = min(_most_behind(read_by), PRODUCT - max(beside, default=-inf))
        if not (step.features.raw or folded) and behind[step.name] >= max(1, most):
            name = clipped[step.name] = f"{step.name}_clipped"
            steps.append(Step(name, "elementwise", (step.name,), step.features, None, options))
            behind[name] = SINCE
    return Program(tuple(steps), program.groups)


def _most_behind(readers: list[Step]) -> float:
    """How many layers may be behind a value with these readers."""
    if any(_sort(step) == "square" for step in readers):
        return PRODUCT // 2
    if any(RULES[s.rule].reads_prefix and RULES[s.rule].makes_neurons and s.name != HEAD for s in readers):
        return DEEP if len(readers) == 1 else DEEP + SINCE
    return inf


def _sort(step: Step) -> str | None:
    if step.options.get("kind") in ("lstm", "gru", "rnn_tanh"):
        return "small"
    return _SORTS.get(str(step.options.get("op", "..")).split(".")[1], _SORTS.get(step.rule))


def _behind(step: Step, read: list[int]) -> int:
    """Of about how many layers the bounds of a step are made, given those of what it reads."""
    before = max(read, default=0)
    if step.rule == "prefix_norm" and not step.options["positions"]:  # of rounding a small share is left
        return 0 if step.options.get("root") else max(0, before - 2)
    match _sort(step):
        case "small":
            return 0
        case "inverse":  # of some eps
            return 2
        case "product":
            return sum(read)
        case "quotient" if len(read) > 1:
            return read[0] + 4
        case "sum":
            return before + 1
    return before
