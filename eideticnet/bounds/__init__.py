"""Whether all numbers that a block can give are finite, by interval arithmetic over what inputs may hold.

Where several owners are computed by one layer, what one has is multiplied by zero for another, and an
infinity times zero is no number: so nobody's may ever be one. The bounds hold for every kernel, order of
summation and fused form, as float32 rounds: those of a sum are wider by a share of the sum of its absolute
values, so this sum is at most ``LARGEST / ROUNDING``, 1e20; as often again with each norm or scale that is
folded into a layer, and some thousands of times that among the tiles of a fast convolution. That is far below
the 3e38 at which float32 ends, and norms, which square, look at their sums of squares themselves. Bounds are
computed in float64, whose rounding is nothing beside the share.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping
from weakref import WeakKeyDictionary

import torch
from torch import nn

from eideticnet.block import Block, earlier_of
from eideticnet.bounds.elementwise import elementwise
from eideticnet.bounds.interval import FINE, LARGEST, WEIGHT, Bound, Interval
from eideticnet.bounds.layers import affine, embedding, norm, recurrent, sloped
from eideticnet.bounds.positions import chosen, positions
from eideticnet.bounds.products import attention, gated, multiplied
from eideticnet.inputs import Inputs
from eideticnet.program import HEAD, INPUT, Features, Program, Step
from eideticnet.rules import RULES, floors
from eideticnet.rules.given import Fixed
from eideticnet.seeding import seeded

__all__ = ["LARGEST", "Interval", "bounded_free_slots", "bounds_of", "farthest", "intervals"]

_LOG = logging.getLogger(__name__)


def intervals(
    block: Block, inputs: Inputs, earlier: Mapping[str, Mapping[str, Interval]]
) -> dict[str, Interval] | None:
    """What each own piece of ``block`` can be, by the value's name, for every input that ``inputs`` allows;
    the logits are under ``HEAD``. ``earlier`` has these of the owners in ``block.reads`` that have some.

    None where some number may be above ``LARGEST``, or nothing is known about it.
    """
    read = _read(inputs)
    if read is None or any(owner not in earlier for owner in block.reads):
        return None
    layers = {path: _exactly(block, path) for path in block.program.layers}
    if not all(layer is None or _moderate(layer) for layer in layers.values()):
        return None
    lows = {owner: {name: value.low for name, value in earlier[owner].items()} for owner in block.reads}
    highs = {owner: {name: value.high for name, value in earlier[owner].items()} for owner in block.reads}
    lower, upper = earlier_of(lows), earlier_of(highs)
    low, high, found = {INPUT: read.low}, {INPUT: read.high}, {INPUT: read}
    for step in block.program.steps:
        least, greatest = block.read(step, low, lower), block.read(step, high, upper)
        if least is None or greatest is None:
            continue
        values = [Interval(*ends) for ends in zip(least, greatest, strict=True)]
        value = _bound(step, layers[step.layer] if step.layer else None, values)
        if value is None:
            return None
        low[step.name], high[step.name], found[step.name] = value.low, value.high, value
    return {name: _everywhere(value, block.program.features[name]) for name, value in found.items()}


_FROZEN: WeakKeyDictionary[Block, tuple[Inputs, Program, dict[str, Interval] | None]] = WeakKeyDictionary()
"""What was found of frozen blocks, which never change: a deep one takes seconds."""


def bounds_of(blocks: Iterable[Block], inputs: Inputs) -> dict[str, dict[str, Interval]]:
    """The intervals of each of these frozen blocks, in the order of learning, that has some, by owner."""
    known = dict[str, dict[str, Interval]]()
    for block in blocks:
        asked = inputs, block.program
        if block not in _FROZEN or _FROZEN[block][:2] != asked:
            _FROZEN[block] = *asked, intervals(block, inputs, known)
        found = _FROZEN[block][2]
        if found is not None:
            known[block.owner] = found
    return known


def bounded_free_slots(program: Program, inputs: Inputs) -> bool:
    """Whether neurons that nobody owns, whose weights are all zero, give finite numbers only."""
    with seeded("free slots"), torch.no_grad():
        block = Block(program, "free", (), {"free": {**floors(program), HEAD: 1}})
        for tensor in (*block.parameters(), *block.buffers()):
            tensor.zero_()
    return intervals(block.eval(), inputs, {}) is not None


def farthest(inputs: Inputs) -> float | None:
    """How far from zero a normalised input may be, if it has a range; of whole numbers, which are looked up,
    what is looked up: 1 or so."""
    read = _read(inputs)
    if read is None:
        return None
    return 1.0 if inputs.dtype == "int64" else float(read.most.max())


@torch.no_grad()
def _bound(step: Step, layer: nn.Module | None, values: list[Interval]) -> Interval | None:
    """The bounds of what a step gives, if there are any below the limit."""
    may_hide = step.rule in _MASKS.split() or str(step.options.get("op")) in _MASKS.split()
    if not may_hide and any(value.hides for value in values):
        return None
    try:
        value = _BOUNDS[step.rule](step, layer, values) if step.rule in _BOUNDS else None
    except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError):  # no float64, say
        _LOG.debug("step %s has no bounds", step.name, exc_info=True)
        return None
    if value is None or value.bounded:
        return value
    value = value.hidden()
    return value if may_hide and bool((value.high <= LARGEST).all()) else None


def _read(inputs: Inputs) -> Interval | None:
    """What normalised inputs can be; whole numbers, which an embedding or a comparison may bound, also
    without a range."""
    least, greatest = inputs.low, inputs.high
    if inputs.dtype == "int64":
        limits = torch.iinfo(torch.int64)
        least, greatest = limits.min if least is None else least, limits.max if greatest is None else greatest
    if least is None or greatest is None:
        return None
    ends = Interval.within(least, greatest, (1, *inputs.shape))
    value = Interval(inputs.normalise(ends.low), inputs.normalise(ends.high))
    if inputs.dtype == "int64":
        return value.rounded(FINE) if float(value.most.max()) > 2**53 else value
    value = value.rounded()
    return value if value.bounded else None


def _exactly(block: Block, path: str) -> nn.Module | None:
    """The block's layer in float64."""
    layer = block.layer(path)
    return None if layer is None else copy.deepcopy(layer).cpu().double().eval()


def _moderate(layer: nn.Module) -> bool:
    """Whether what the layer holds may be folded into another one, and is finite."""
    return isinstance(layer, Fixed) or all(
        bool((tensor.abs() <= WEIGHT).all()) for tensor in layer.state_dict().values()
    )


def _everywhere(value: Interval, features: Features) -> Interval:
    """For others one interval for each neuron will do, whatever the position."""
    rank = value.low.ndim
    return value if features.raw else value.alike_along([d for d in range(rank) if d != rank + features.dim])


def _both(step: Step, layer: nn.Module | None, values: list[Interval]) -> Interval:
    """Bounds of what moves numbers and computes none."""
    rule = RULES[step.rule]
    return Interval.over(
        rule.run(step, layer, [value.low for value in values], False),
        rule.run(step, layer, [value.high for value in values], False),
    )


def _cast(step: Step, layer: nn.Module | None, values: list[Interval]) -> Interval | None:
    """Bounds of whole numbers and truth values as numbers of another type."""
    (value,), dtype = values, getattr(torch, step.options["dtype"])
    if value.low.dtype == torch.bool:
        return _both(step, layer, values)
    if dtype == torch.bool:
        return Interval(value.least > 0, value.most > 0)
    most = float(value.most.max())
    if not dtype.is_floating_point:
        return value if most <= torch.iinfo(dtype).max else None
    return value if most <= 1 / torch.finfo(dtype).eps else value.rounded()


_MASKS = """constant buffer again reshape permute unsqueeze repeat identity attention aten.softmax.int
    aten.masked_fill.Scalar aten.masked_fill.Tensor aten.where.self aten.where.ScalarOther
    aten.where.ScalarSelf aten.add.Tensor aten.add.Scalar aten.slice.Tensor aten.select.int"""
"""Where a mask's minus infinity may come from and pass, until a softmax takes it away."""
_ALIKE: tuple[tuple[Bound, str], ...] = (
    (_both, "identity detach dropout training reshape permute unsqueeze part narrow choose stack repeat cat"),
    (_both, "pixel_shuffle channel_shuffle interleave again parameter learned buffer constant"),
    (affine, "linear weighting taps conv conv_part conv_weighting grouped_conv batch_norm own"),
    (norm, "layer_norm prefix_norm group_norm instance_norm"),
    (positions, "positions statistic"),
    (chosen, "index gather"),
    (multiplied, "matmul einsum"),
    (sloped, "prelu rrelu"),
    (attention, "attention"),
    (elementwise, "elementwise"),
    (embedding, "embedding"),
    (recurrent, "recurrent"),
    (gated, "glu"),
    (_cast, "cast"),
)
_BOUNDS = {rule: bound for bound, rules in _ALIKE for rule in rules.split()}
"""How each row of the table is bounded."""
