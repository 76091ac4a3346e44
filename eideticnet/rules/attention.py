"""Attention: every head belongs to one owner, so nothing here reads a prefix."""

from __future__ import annotations

from dataclasses import replace
from string import ascii_uppercase

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node

from eideticnet.program import Features, Step
from eideticnet.rules.base import Rule
from eideticnet.rules.calls import Call, shape_of
from eideticnet.rules.groups import Groups
from eideticnet.rules.products import HEADS, multiplied, spread


class AttentionRule(Rule, name="attention"):
    """scaled_dot_product_attention of (N, heads, S, size), with dropout while its block trains."""

    def trace(self, call: Call, groups: Groups) -> Step:
        kwargs, operands = dict(call.node.kwargs), list(call.node.args[:3])
        ranks = [len(shape_of(n)) for n in operands]  # type: ignore[arg-type]
        before = [ascii_uppercase[: rank - 2][::-1] for rank in (*ranks, max(ranks))]
        terms = [b + t for b, t in zip(before, ("qs", "ks", "kv", "qv"), strict=True)]
        if dropout_of(call.node):
            raise call.refuse("drops in evaluation mode too", "dropout_p=p if self.training else 0.0")
        shared = bool(kwargs.get("enable_gqa")) and _shared(call, operands)  # type: ignore[arg-type]
        inputs, features, how = multiplied(shared or call, groups, operands, terms)  # type: ignore[arg-type]
        options = {
            "p": dropout_of(call.twin),
            "causal": call.argument(5, kwargs.get("is_causal", False)),
            "scale": kwargs.get("scale"),
            **how,
            **({"gqa": True} if shared else {}),
        }
        mask = _mask(call, groups, call.argument(3, kwargs.get("attn_mask")), features)
        if mask and options["causal"]:
            raise call.refuse("takes a mask beside is_causal=True", "one mask that hides what both hide")
        return Step(call.name, "attention", (*inputs, *mask), features, None, options)

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        q, k, v, *mask = spread(step.options, inputs)
        o = step.options
        hides, p = mask[0] if mask else None, o["p"] if training else 0.0
        shares = {"scale": o["scale"], "enable_gqa": o.get("gqa", False)}
        return F.scaled_dot_product_attention(q, k, v, hides, p, o["causal"], **shares)


def _shared(call: Call, operands: list[Node]) -> Call:
    """The call as the neurons see it: adjacent heads of queries share one of keys and values."""
    values, heads = dict(call.values), int(shape_of(operands[0])[-3])
    for node in operands[1:]:
        times = heads // int(shape_of(node)[-3])
        if node in values and not values[node][1].raw and times > 1:
            name, features = values[node]
            if features.dim != -3:
                raise call.refuse("shares keys between heads that are no neurons", HEADS)
            values[node] = name, features.repeated(times)
    return replace(call, values=values)


def dropout_of(node: Node) -> float:
    """The dropout of a call of scaled_dot_product_attention."""
    return float(node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0))  # type: ignore[arg-type]


def _mask(call: Call, groups: Groups, mask: object, features: Features) -> list[str]:
    """The step that gives a mask; none where there is no mask, or one that hides nothing."""
    if mask is None:
        return []
    each = shape_of(mask)[-3:-2] not in ((), (1,))  # type: ignore[arg-type]
    if mask in call.values:
        name, own = call.values[mask]  # type: ignore[index]
        if own.raw and each:
            raise call.refuse("takes a mask for each head", "one mask (N, 1, ..., S) for all heads")
        if not own.raw and not groups.join(features, own):
            raise call.refuse("takes a mask whose features are not the heads")
        return [name]
    constant = call.constants.get(mask)  # type: ignore[call-overload]
    if constant is None:
        raise call.refuse("takes a mask that no rule covers", "one computed from the input or a parameter")
    if constant.parameter is None and constant.value.dtype == torch.bool and bool(constant.value.all()):
        return []
    return [call.constant(mask, features if each else Features())]  # type: ignore[arg-type]
