"""The oracle: the plain trunk with dense weights in which everything forbidden is zero.

Slow and obvious: one dense layer for all owners, in double precision. A neuron's row holds
weights for the columns of the owners that its own owner reads, and zeros everywhere else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from eideticnet import EideticNetwork
from eideticnet.program import HEAD


def masked_logits(
    net: EideticNetwork, trunk: Callable[[Sequence[int]], nn.Module], widths: Sequence[int], x: Tensor
) -> dict[str, Tensor]:
    """Logits of every owner's head, computed by the plain ``trunk`` of the full ``widths``."""
    plain = trunk(widths).double().eval()
    for path, layer in plain.named_modules():
        if isinstance(layer, nn.Linear):
            _fill_linear(net, path, layer)
        elif isinstance(layer, nn.BatchNorm1d) and not net.program.layers[path].features.raw:
            _fill_norm(net, path, layer)
    return {owner: _head(net, owner, _features(net, plain, owner, x)) for owner in net.learned.blocks}


def _columns(net: EideticNetwork, group: str) -> dict[str, list[int]]:
    """Columns of each owner in a dense layer, in the order of learning; the rest are unused."""
    columns, start = {}, 0
    for owner, own in net.learned.owned().items():
        columns[owner] = list(range(start, start + own[group]))
        start += own[group]
    return columns


def _read(net: EideticNetwork, owner: str, group: str) -> list[int]:
    columns = _columns(net, group)
    return [c for o in (*net.learned.block(owner).reads, owner) for c in columns[o]]


def _fill_linear(net: EideticNetwork, path: str, layer: nn.Linear) -> None:
    step = net.program.layers[path]
    source = net.program.features[step.inputs[0]]
    layer.weight.data.zero_()
    if layer.bias is not None:
        layer.bias.data.zero_()
    for owner, rows in _columns(net, step.features.runs[0].group).items():
        piece = net.learned.block(owner).layer(path)
        if piece is None:
            continue
        columns = list(range(layer.in_features)) if source.raw else _read(net, owner, source.runs[0].group)
        layer.weight.data[torch.tensor(rows)[:, None], torch.tensor(columns)] = piece.weight.double()
        if layer.bias is not None:
            layer.bias.data[rows] = piece.bias.double()


def _fill_norm(net: EideticNetwork, path: str, layer: nn.BatchNorm1d) -> None:
    group = net.program.layers[path].features.runs[0].group
    for owner, columns in _columns(net, group).items():
        piece = net.learned.block(owner).layer(path)
        for name, values in piece.state_dict().items() if piece is not None else ():
            if values.ndim:
                layer.state_dict()[name][columns] = values.double()


def _features(net: EideticNetwork, plain: nn.Module, owner: str, x: Tensor) -> Tensor:
    """The trunk's features; a norm of the raw input is the owner's own, so it is put in place."""
    plain = copy.deepcopy(plain)
    for path, step in net.program.layers.items():
        if step.features.raw:
            plain.get_submodule(path).load_state_dict(net.learned.block(owner).layer(path).state_dict())
    with torch.no_grad():
        return plain(net.inputs.normalise(x.double()))


def _head(net: EideticNetwork, owner: str, features: Tensor) -> Tensor:
    head = net.learned.block(owner).layer(HEAD)
    group = net.program.features[net.program.steps[-1].inputs[0]].runs[0].group
    return features[:, _read(net, owner, group)] @ head.weight.double().T + head.bias.double()
