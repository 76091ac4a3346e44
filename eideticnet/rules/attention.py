"""Attention: every head belongs to one owner, so nothing here reads a prefix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node

from eideticnet.calls import Call, shape_of
from eideticnet.groups import Groups
from eideticnet.program import Features, Step
from eideticnet.rules.base import Rule


def _same_heads(call: Call, groups: Groups) -> Features:
    """The heads that all operands share; they must lie before the two dimensions that are mixed."""
    mixed = call.node.args[: 3 if "attention" in call.operation else 2]
    all_features = [call.values[n][1] for n in mixed if n in call.values]  # type: ignore[index]
    if len(all_features) < len(mixed) or len({f.raw for f in all_features}) > 1:
        raise call.refuse("mixes features with a parameter or with the raw input", "a layer for each")
    first = all_features[0]
    for other in all_features:
        if not first.raw and (other.dim > -3 or not groups.join(first, other)):
            raise call.refuse("mixes features", "heads: x.view(N, S, heads, size).transpose(1, 2)")
    return first


class AttentionRule(Rule):
    """scaled_dot_product_attention of (N, heads, S, size), with dropout while its block trains."""

    def trace(self, call: Call, groups: Groups) -> Step:
        features = _same_heads(call, groups)
        kwargs = dict(call.node.kwargs)
        if kwargs.get("enable_gqa"):
            raise call.refuse("shares keys between heads", "as many keys as queries")
        if dropout_of(call.node):
            raise call.refuse("drops in evaluation mode too", "dropout_p=p if self.training else 0.0")
        options = {
            "p": dropout_of(call.twin),
            "causal": call.argument(5, kwargs.get("is_causal", False)),
            "scale": kwargs.get("scale"),
        }
        order = [call.activations.index(n) for n in call.node.args[:3]]  # type: ignore[arg-type]
        inputs = [call.inputs[i] for i in order]
        mask = _mask(call, call.argument(3, kwargs.get("attn_mask")))
        if mask and options["causal"]:
            raise call.refuse("takes a mask beside is_causal=True", "one mask that hides what both hide")
        return Step(call.name, "attention", (*inputs, *mask), features, None, options)

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        q, k, v, *mask = inputs
        o = step.options
        return F.scaled_dot_product_attention(
            q, k, v, mask[0] if mask else None, o["p"] if training else 0.0, o["causal"], scale=o["scale"]
        )


def dropout_of(node: Node) -> float:
    """The dropout of a call of scaled_dot_product_attention."""
    return float(node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0))  # type: ignore[arg-type]


def _mask(call: Call, mask: object) -> list[str]:
    """The step that gives a constant mask; none where there is no mask, or one that hides nothing."""
    if mask is None:
        return []
    if mask in call.values and call.values[mask][1].raw:  # type: ignore[index]
        if shape_of(mask)[-3:-2] != (1,):  # type: ignore[arg-type]
            raise call.refuse("takes a mask for each head", "one mask (N, 1, ..., S) for all heads")
        return [call.values[mask][0]]  # type: ignore[index]
    constant = call.constants.get(mask)  # type: ignore[call-overload]
    if constant is None or constant.parameter is not None:
        raise call.refuse(
            "takes a mask that depends on features", "is_causal=True, or a mask computed from the input alone"
        )
    if constant.value.dtype == torch.bool and bool(constant.value.all()):
        return []
    each = constant.value.ndim > 2 and constant.value.shape[-3] != 1
    return [call.constant(mask, call.features if each else Features())]  # type: ignore[arg-type]


class MatmulRule(Rule):
    """matmul of two values head by head, as attention is written by hand."""

    def trace(self, call: Call, groups: Groups) -> Step:
        features = _same_heads(call, groups)
        order = [call.activations.index(n) for n in call.node.args[:2]]  # type: ignore[arg-type]
        return Step(call.name, "matmul", tuple(call.inputs[i] for i in order), features)

    def run(self, step: Step, layer: nn.Module | None, inputs: list[Tensor], training: bool) -> Tensor:
        return torch.matmul(*inputs)
