"""Clips: places in a deep trunk where bounds start anew.

The bounds of a value grow about tenfold with each layer, real values don't. So what a layer reads behind many
others is kept between two numbers that no real value reaches, and has these for bounds: that changes no bit.
Where the clips are follows from the steps alone, so they are there in every version and layout.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from eideticnet.bounds import farthest
from eideticnet.inputs import Inputs
from eideticnet.program import HEAD, INPUT, Program, Step
from eideticnet.rules import RULES

DEEP = 8
"""Behind so many layers a value is clipped; behind a few more also one with several readers, which a runtime
would rather add to another before it is rectified: in a residual net the branches are clipped."""
SINCE = 4
"""Layers for which a clip counts: about as many make a value as great as it may be then."""
FARTHEST = 65504.0
"""From zero, for inputs no farther than 1. Half precision ends here, so nothing sensible is beyond."""
_SUMS = ["linear", "weighting", "conv", "conv_part", "conv_weighting", "grouped_conv", "own", "taps"]
_SMALL = """sigmoid tanh hardtanh relu6 hardsigmoid clamp sin cos erf atan softmax sign argmax argmin eq ne lt
    le gt ge"""
"""What has bounds of its own."""


def with_clips(program: Program, inputs: Inputs) -> Program:
    """``program`` with clips, if it is deep and inputs have a range."""
    most = farthest(inputs)
    if most is None:
        return program
    limit = FARTHEST * max(1.0, most)
    options = {"op": "aten.clamp.default", "args": [{"input": 0}, -limit, limit], "kwargs": {}}
    read = {name for step in program.steps if _mixes(step) for name in step.inputs}
    readers = Counter(name for step in program.steps for name in set(step.inputs))
    normed = {name for step in program.steps if step.rule == "batch_norm" for name in step.inputs}
    steps, clipped, behind = list[Step](), dict[str, str](), {INPUT: 0}
    for step in program.steps:
        step = replace(step, inputs=tuple(clipped.get(name, name) for name in step.inputs))
        steps.append(step)
        behind[step.name] = _behind(step, [behind[name] for name in step.inputs])
        folded = step.layer is not None and step.name in normed  # with what a runtime makes one layer
        deep = DEEP if readers[step.name] == 1 else DEEP + SINCE
        if step.name in read and behind[step.name] >= deep and not (step.features.raw or folded):
            name = clipped[step.name] = f"{step.name}_clipped"
            steps.append(Step(name, "elementwise", (step.name,), step.features, None, options))
            behind[name] = SINCE
    return Program(tuple(steps), program.groups)


def _mixes(step: Step) -> bool:
    """Whether a layer of the trunk makes neurons of those that it reads."""
    return RULES[step.rule].reads_prefix and RULES[step.rule].makes_neurons and step.name != HEAD


def _behind(step: Step, read: list[int]) -> int:
    """Of about how many layers the bounds of a step are made, given those of what it reads."""
    operation = str(step.options.get("op", "..")).split(".")[1]
    if operation in _SMALL.split() or step.options.get("kind") in ("lstm", "gru", "rnn_tanh"):
        return 0
    if step.rule in ("matmul", "einsum") or operation in ("mul", "addcmul", "addcdiv"):
        return sum(read)
    before = max(read, default=0)
    if step.rule in ("prefix_norm", "layer_norm"):  # a share of one or two per cent is what rounding leaves
        return 0 if step.options.get("root") else max(0, before - 2)
    return before + (step.rule in _SUMS or step.rule == "recurrent")
