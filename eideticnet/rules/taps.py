"""The head of a router that reads all layers. No trunk has it; it is put into a program."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from eideticnet.program import INPUT, Program, Step
from eideticnet.rules.mixing import LinearRule


class TapsRule(LinearRule, name="taps"):
    """A Linear over several values side by side, each averaged over what are not its features."""

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        return super().run(step, layer, [side_by_side(step, inputs)], training)


def side_by_side(step: Step, inputs: list[Tensor]) -> Tensor:
    """What a Linear with taps reads (N, columns)."""
    pairs = zip(inputs, step.options["dims"], strict=True)
    flat = [x if x.ndim == 2 else x.movedim(dim, 1).flatten(2).mean(2) for x, dim in pairs]
    if "rows" in step.options:
        each = zip(flat, step.options["rows"], strict=True)
        flat = [x if n == 1 else x.unflatten(0, (-1, n)).mean(1) for x, n in each]
    return torch.cat(flat, 1)


def tapped(program: Program, values: list[str]) -> Program:
    """``program`` with a head that reads ``values`` beside the features."""
    *steps, head = program.steps
    inputs = tuple(dict.fromkeys(n for n in (*values, *head.inputs) if not program.features[n].raw))
    options = {**head.options, "dims": [program.features[n].dim for n in inputs]}
    rows = _rows(program)
    if any(rows[name] > 1 for name in inputs):
        options["rows"] = [rows[name] for name in inputs]
    return Program((*steps, replace(head, rule="taps", inputs=inputs, options=options)), program.groups)


def _rows(program: Program) -> dict[str, int]:
    """How many rows each value has for one of the batch: more where positions became rows."""
    rows = {INPUT: 1}
    for step in program.steps:
        more, fewer = step.options.get("rows", (1, 1)) if step.rule == "reshape" else (1, 1)
        rows[step.name] = max((rows[name] for name in step.inputs), default=1) * more // fewer
    return rows
