"""Bounds of layers with weights."""

from __future__ import annotations

import copy
from math import sqrt

import torch
from torch import Tensor, nn

from eideticnet.bounds.elementwise import at_corners
from eideticnet.bounds.interval import FINE, LARGEST, ROOM, Interval, rounding
from eideticnet.program import Step
from eideticnet.rules import RULES
from eideticnet.rules.recurrent import Recurrent


def affine(step: Step, layer: nn.Module | None, values: list[Interval]) -> Interval | None:
    """Bounds of a layer of sums of products, from those of the middle and how far around it inputs may be.

    They are wider than that by a share of the sum of all absolute values, over all positions: so that sum is
    never larger than what they tell by more than this share.
    """
    assert layer is not None
    if isinstance(layer, nn.PReLU):
        return sloped(step, layer, values)

    def run(layer: nn.Module, inputs: list[Tensor]) -> Tensor:
        return RULES[step.rule].run(step, layer, inputs, False)

    tensors = layer.state_dict()
    weight = tensors.get("weight", torch.ones(1))
    kernel, terms = weight.ndim > 2, weight[0].numel()
    if kernel:  # transposed or not
        terms = max(terms, weight[:, :1].numel())
    most = [value.most for value in values]
    if kernel:  # what is elsewhere is computed with, too
        most = [m.amax(tuple(range(2, m.ndim)), keepdim=True).expand_as(m) for m in most]
    centre = run(layer, [value.centre for value in values])
    radius = run(_absolute(layer, 0), [value.radius for value in values])
    added = run(_absolute(layer, 1), most)
    if kernel:
        added = added.amax(tuple(range(2, added.ndim)), keepdim=True)
    radius = radius + rounding(terms) * added
    return Interval(centre - radius, centre + radius)


def _absolute(layer: nn.Module, shift: int) -> nn.Module:
    """The layer with absolute values for weights, and for what is added, which is ``shift`` times there."""
    layer = copy.deepcopy(layer)
    tensors = layer.state_dict()
    for name in tensors.keys() & {"weight", "bias"}:
        tensors[name].abs_()
    if "bias" in tensors:
        tensors["bias"].mul_(shift)
    if "running_mean" in tensors:
        tensors["running_mean"].abs_().mul_(-shift)
    return layer


def sloped(step: Step, layer: nn.Module | None, values: list[Interval]) -> Interval | None:
    """Bounds of slopes for what is below zero."""
    run = RULES[step.rule].run
    return at_corners(lambda x: run(step, layer, [x], False), values, (0.0,)).rounded(FINE)


def norm(step: Step, layer: nn.Module | None, values: list[Interval]) -> Interval | None:
    """Bounds of what is normalised by its own statistics.

    Of n numbers none is further from their mean than sqrt(n) standard deviations, twice that if the variance
    is a difference of squares. What rounding makes of a mean that is far above the deviation is divided by
    the deviation as well, at least by sqrt(eps).
    """
    assert layer is not None
    (value,), o = values, step.options
    with torch.no_grad():
        shape = layer(value.centre).shape
    channels, whole = value.low.shape[1], value.low[:1].numel()
    count = {
        "instance_norm": whole // channels,
        "group_norm": whole // channels * int(o.get("size", 1)),
        "prefix_norm": whole if o.get("positions") else value.low.shape[-1],
        "layer_norm": torch.Size(o.get("shape", ())).numel(),
    }[step.rule]
    most = float(value.most.max())
    if not count * (2 * most) ** 2 <= ROOM or o["eps"] == 0:
        return None
    furthest = 2 * sqrt(count)
    if not o.get("root"):
        furthest += 1.01 * (count + 16) * 2.0**-24 * most / sqrt(o["eps"])
    dim = -1 if step.rule == "layer_norm" or not o.get("positions", True) else 1
    weight, bias = (_along(getattr(layer, name, None), dim, len(shape)) for name in ("weight", "bias"))
    middle = torch.zeros(shape, dtype=torch.float64) + (0.0 if bias is None else bias)
    radius = furthest * (torch.ones_like(middle) if weight is None else weight.abs())
    return Interval(middle - radius, middle + radius).rounded()


def _along(tensor: Tensor | None, dim: int, rank: int) -> Tensor | None:
    """The tensor of a norm as it is combined with values of this rank."""
    if tensor is None or dim == -1:
        return tensor
    return tensor.reshape([-1 if d == dim else 1 for d in range(rank)])


def embedding(step: Step, layer: nn.Module | None, values: list[Interval]) -> Interval | None:
    """Bounds of rows that are looked up: of the one that is known, or of all."""
    assert isinstance(layer, nn.Embedding)
    (value,), weight = values, layer.weight
    if value.known:
        rows: Tensor = layer(value.low.long())
        return Interval(rows, rows)
    shape = (*value.low.shape, weight.shape[1])
    return Interval(weight.amin(0).expand(shape), weight.amax(0).expand(shape))


def recurrent(step: Step, layer: nn.Module | None, values: list[Interval]) -> Interval | None:
    """Bounds of hidden states: what goes through a tanh is below 1, what doesn't may grow with each step."""
    assert isinstance(layer, Recurrent)
    read = torch.cat([value.most.amax((0, 1)) for value in values])
    tensors = layer.state_dict()
    added = layer.weight_ih_l0.abs() @ read
    added = added + sum(tensors[name].abs() for name in tensors if name.startswith("bias"))
    shape = (*values[0].low.shape[:2], layer.hidden)
    state = torch.zeros(layer.hidden, dtype=torch.float64)
    share = rounding(len(read) + layer.hidden)
    if layer.kind != "rnn_relu":
        added = added + layer.weight_hh_l0.abs().sum(1)
        return Interval.within(-1, 1, shape).rounded() if bool((added <= LARGEST).all()) else None
    for _ in range(shape[1]):
        state = (added + layer.weight_hh_l0.abs() @ state) * (1 + share)
        if not bool((state <= LARGEST).all()):
            return None
    return Interval(torch.zeros(shape, dtype=torch.float64), state.expand(shape))
