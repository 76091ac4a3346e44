"""Operations along dimensions without neurons: each owner's piece is treated alone."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from eideticnet.program import INPUT, Features, Step
from eideticnet.rules.base import Rule
from eideticnet.rules.calls import Call, batch_dim
from eideticnet.rules.elementwise import combined, run_literal
from eideticnet.rules.groups import Groups
from eideticnet.rules.narrow import NarrowRule


class PositionsRule(Rule, name="positions"):
    """Operations along dimensions without neurons: pooling, padding, softmax, mean, selecting."""

    def trace(self, call: Call, groups: Groups) -> Step:
        rank = len(call.input_shape)
        touched, change = _touched(call, rank)
        if call.operation == "aten.slice.Tensor" and _is_whole(call):
            touched = []
        here = rank + call.features.dim
        if not call.features.raw and here in touched:
            if call.operation in STATISTICS and batch_dim(call.input_shape) not in touched and not call.index:
                return StatisticRule().trace(call, groups)
            if call.operation in ("aten.slice.Tensor", "aten.narrow.default"):
                step = NarrowRule().sliced(call, groups)
                if step is not None:
                    return step
            more = " and the batch" if batch_dim(call.input_shape) in touched else ""
            raise call.refuse(
                f"works across the feature dimension{more}, which no rule covers",
                "it along positions, or nn.RMSNorm or nn.LayerNorm to normalise",
            )
        if batch_dim(call.input_shape) in touched:
            raise call.refuse("works across the batch")
        features = call.features
        if not features.raw:
            here += sum(change for d in touched if d < here)
            features = features.at(here - len(call.shape))
        names, options = _literal(call)
        if "squeeze" in call.operation:
            # a dimension that is not one stays, also where an owner has one neuron
            options |= {"op": "aten.squeeze.dims", "args": [options["args"][0], touched]}
        return Step(call.name, "positions", names, features, None, options)

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        if torch.compiler.is_exporting() and _uneven(step, inputs[0]):
            return _in_windows(inputs[0], step.options["args"][1], "max" in step.options["op"])
        out = run_literal(step.options, inputs)
        return out if step.options["index"] is None else out[step.options["index"]]  # type: ignore[no-any-return]


def _literal(call: Call) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The names of all operands, and the call as options."""
    operands = call.operands
    names = [call.values[n][0] if n in call.values else call.constant(n, Features()) for n in operands]
    args, kwargs = call.literals({n: i for i, n in enumerate(operands)})
    return tuple(names), {"op": call.operation, "args": args, "kwargs": kwargs, "index": call.index}


_REDUCTIONS = """mean.dim sum.dim_IntList amax.default amin.default max.dim min.dim var.dim var.correction
    std.dim std.correction linalg_vector_norm.default norm.ScalarOpt_dim logsumexp.default any.dim all.dim"""
STATISTICS = {f"aten.{name}" for name in _REDUCTIONS.split()}


class StatisticRule(PositionsRule, name="statistic"):
    """What a mean, a variance or a norm makes of all features at once, as norms written by hand do: everyone
    has one of its own, of all columns that it reads."""

    reads_prefix = True
    floor = 4  # as of a norm

    def trace(self, call: Call, groups: Groups) -> Step:
        names, options = _literal(call)
        return Step(call.name, "statistic", names, Features(), None, options)


def _uneven(step: Step, x: Tensor) -> bool:
    """Whether it is an adaptive pool to a size that does not divide, which no ONNX operator is."""
    if "adaptive" not in step.options["op"] or step.options["index"] == 1:
        return False
    sizes = step.options["args"][1]
    return any(whole % part for whole, part in zip(x.shape[-len(sizes) :], sizes, strict=True))


def _in_windows(x: Tensor, sizes: list[int], largest: bool) -> Tensor:
    """An adaptive pool, one dimension after the other, window by window."""
    for dim, parts in zip(range(-len(sizes), 0), sizes, strict=True):
        size = int(x.shape[dim])
        ends = [(i * size // parts, -(-(i + 1) * size // parts)) for i in range(parts)]
        windows = [x.narrow(dim, a, b - a) for a, b in ends]
        x = torch.cat([(w.amax if largest else w.mean)(dim, keepdim=True) for w in windows], dim)
    return x


def _is_whole(call: Call) -> bool:
    """Whether a slice takes everything, as x[:] does."""
    return (
        call.argument(2) in (0, None) and call.argument(3) in (sys.maxsize, None) and call.argument(4, 1) == 1
    )


def _touched(call: Call, rank: int) -> tuple[list[int], int]:
    """Dimensions that an operation works on, and how many each of them becomes more (or less)."""
    name, given = call.operation.split(".")[1], call.named
    if name in ("pad", "constant_pad_nd"):
        pads = call.argument(1)
        return [rank - 1 - i for i in range(len(pads) // 2) if pads[2 * i] or pads[2 * i + 1]], 0
    if spatial := next((n for n in (1, 2, 3) if f"{n}d" in name), 0):  # pools, resizing, windows
        return list(range(rank - spatial, rank)), 0
    (along,) = [given[n] for n in ("dim", "dims", "dimension") if n in given] or [None]
    listed = along if isinstance(along, list | tuple) else [] if along is None else [along]
    dims = [int(d) % rank for d in listed or range(rank)]
    if name == "squeeze":  # the features' dimension stays, also where a trunk of one neuron squeezes it
        here = None if call.features.raw else rank + call.features.dim
        return [d for d in dims if call.input_shape[d] == 1 and d != here], -1
    gone = name in ("select", "unbind") or given.get("keepdim") is False
    return dims, -1 if gone else 0


class RepeatRule(Rule, name="repeat"):
    """expand, expand_as and repeat along dimensions without neurons."""

    def trace(self, call: Call, groups: Groups) -> Step:
        like = call.argument(1) if "expand_as" in call.operation else None
        alike = call.argument(0) in call.values and like in call.values and call.features.raw
        if call.argument(0) in call.constants or alike:  # as large as a value: only expand_as can say so
            names, features = combined(call, groups)
            return Step(call.name, "repeat", names, features, None, {"like": True})
        before, after, features = call.input_shape, call.shape, call.features
        new = len(after) - len(before)
        where, batch = new + len(before) + features.dim, batch_dim(before)
        same = batch_dim(after) is None if batch is None else str(after[new + batch]) == str(before[batch])
        rows = batch_dim(after) if batch is None and "expand" in call.operation else None
        if rows is not None and not str(after[rows]).isidentifier():  # not as many as the input's
            rows = None
        if not same and rows is None:
            raise call.refuse("repeats rows of the batch, or what is the same for all", "broadcasting")
        if not features.raw and after[where] != before[where - new]:
            raise call.refuse("repeats one feature over many")
        if "expand" in call.operation:
            sizes = [-1 if isinstance(n, torch.SymInt) else int(n) for n in after]
        else:
            sizes = [int(n) for n in call.argument(1)]
        if not features.raw and "expand" in call.operation:
            sizes[where] = -1
        options = {"repeat": "expand" not in call.operation, "sizes": sizes}
        if rows is None:
            return Step(call.name, "repeat", call.inputs[:1], features, None, options)
        return Step(call.name, "repeat", (call.inputs[0], INPUT), features, None, {**options, "rows": rows})

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        if "like" in step.options:
            return inputs[0].expand_as(inputs[1])
        sizes = step.options["sizes"]
        if "rows" in step.options:
            sizes = [inputs[1].shape[0] if d == step.options["rows"] else n for d, n in enumerate(sizes)]
        return inputs[0].repeat(sizes) if step.options["repeat"] else inputs[0].expand(sizes)


class InterleaveRule(Rule, name="interleave"):
    """repeat_interleave by a number: of features (keys that several heads of queries share) or positions."""

    def trace(self, call: Call, groups: Groups) -> Step:
        times, dim, rank = call.named["repeats"], call.named["dim"], len(call.input_shape)
        if dim is None or dim % rank == batch_dim(call.input_shape):
            raise call.refuse("repeats rows of the batch", "it along another dimension")
        dim, features = dim % rank - rank, call.features
        if not features.raw and features.dim == dim:
            features = features.repeated(times)
        return Step(call.name, "interleave", call.inputs, features, None, {"dim": dim, "times": times})

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        (x,), dim = inputs, step.options["dim"] % inputs[0].ndim
        sizes = [-1] * (dim + 1) + [step.options["times"]] + [-1] * (x.ndim - dim - 1)
        return x.unsqueeze(dim + 1).expand(sizes).flatten(dim, dim + 1)
