"""A router from no example at all: class means and one covariance of random features.

The features never change (relu of a random projection of the input), so what was summed over an
old task's data stays true for ever, and adding up task by task gives what all data at once would
have given. From the sums follow the Gaussian classifier with one covariance for all classes, in
closed form: no training, no order, nothing to forget.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eideticnet.block import Block
from eideticnet.data.rows import Rows
from eideticnet.errors import DataError
from eideticnet.inputs import Inputs
from eideticnet.program import HEAD, Program
from eideticnet.seeding import seeded
from eideticnet.trace.tracing import trace

FEATURES = 1024
"""How many random features there are by default."""
MOST_FEATURES = 1 << 15
"""Their products take 8 GiB."""
WIDEST = 4096
"""Inputs of more numbers get no moments unasked: the projection would outgrow most trunks, and what
random features of whole photographs tell is little."""
SHRINKAGE = 0.01
"""Share of the mean variance that is added to every variance: random features are nearly collinear."""
SPREAD = 0.3
"""Standard deviation of the random biases, where inputs and projections have about 1."""


@dataclass(frozen=True)
class Moments:
    """What is kept of the tasks' data: sums of D random features, no examples.

    ``weight`` (D, F) and ``bias`` (D,) project normalised inputs, flattened; ``products`` (D, D)
    sums the outer products over all rows; ``sums`` holds, by task name, the sum of each class's
    features and in the last column its rows, (C, D + 1). All sums are float64, on the CPU.
    """

    weight: Tensor
    bias: Tensor
    products: Tensor
    sums: Mapping[str, Tensor]

    def features(self, x: Tensor) -> Tensor:
        """(N, D) for normalised ``x`` (N, *shape)."""
        return F.relu(F.linear(x.flatten(1), self.weight, self.bias))

    def without_least(self, block: Block, share: float) -> Moments:
        """What would have been kept without that ``share`` of the features, at least one, that move the
        logits of ``block``, which follows from these, the least."""
        rows = torch.cat([sums[:, -1] for sums in self.sums.values()]).sum().clamp_min(1.0)
        mean = torch.stack([sums[:, :-1].sum(0) for sums in self.sums.values()]).sum(0) / rows
        spread = (self.products.diagonal() / rows - mean.square()).clamp_min(0.0).sqrt()
        head = block.layers.get_submodule(HEAD).get_parameter("weight").double()
        moved = (head - head.mean(0)).norm(dim=0).detach() * spread
        kept = moved.argsort(stable=True)[max(int(share * len(moved)), 1) :].sort().values
        columns = torch.cat([kept, torch.tensor([len(moved)])])
        sums = {name: sums[:, columns] for name, sums in self.sums.items()}
        return Moments(self.weight[kept], self.bias[kept], self.products[kept][:, kept], sums)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name; ``from_tensors`` is the inverse."""
        own = {"weight": self.weight, "bias": self.bias, "products": self.products}
        return own | {f"sums.{name}": sums for name, sums in self.sums.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Moments:
        sums = {k.partition(".")[2]: v for k, v in tensors.items() if k.startswith("sums.")}
        return cls(tensors["weight"], tensors["bias"], tensors["products"], sums)


def check_features(known: Moments | None, inputs: Inputs, features: int) -> None:
    """Raise ``DataError`` if this number of ``features`` of ``inputs`` can't be added to what is
    ``known``."""
    if inputs.dtype != "float32":
        raise DataError("moments are kept of float32 inputs alone; keep examples (memory=K) instead")
    if features > MOST_FEATURES:
        size = 8 * features**2 >> 30
        raise DataError(f"moments={features} would keep {size} GiB of products; use up to {MOST_FEATURES}")
    if known is not None and len(known.bias) != features:
        raise DataError(f"moments={features}, but {len(known.bias)} features were kept of earlier tasks")


@torch.no_grad()
def gather(known: Moments | None, task: str, rows: Rows, features: int, *seed: object) -> Moments:
    """``known`` and the sums over ``rows`` of one more task; the first one decides the projection."""
    names, inputs = (*seed, "moments"), rows.inputs
    check_features(known, inputs, features)
    if known is None:
        known = _projection(rows, features, *names)
    products = known.products.clone()
    sums = torch.zeros(len(rows.classes), len(known.bias) + 1, dtype=torch.double)
    for x, y in rows.batches(*names):
        z = known.features(inputs.normalise(x.cpu()))
        products += (z.T @ z).double()
        sums.index_add_(0, y.cpu(), F.pad(z, (0, 1), value=1.0).double())
    return replace(known, products=products, sums={**known.sums, task: sums})


def _projection(rows: Rows, features: int, *names: object) -> Moments:
    """Random weights for inputs brought to mean 0 and variance 1, as the first task's data has them."""
    count, total, square = 0, torch.zeros(()), torch.zeros(())
    for x, _ in rows.batches(*names):
        x = rows.inputs.normalise(x.cpu()).flatten(1).double()
        count, total, square = count + len(x), total + x.sum(0), square + x.square().sum()
    mean = total / count
    variance = square / count / len(mean) - mean.square().mean()
    with seeded(*names):
        weight = torch.randn(features, len(mean), dtype=torch.double) / len(mean) ** 0.5
        bias = SPREAD * torch.randn(features, dtype=torch.double)
    weight = weight / variance.clamp_min(1e-12).sqrt()
    nothing = torch.zeros(features, features, dtype=torch.double)
    return Moments(weight.float(), (bias - weight @ mean).float(), nothing, {})


def router_block(moments: Moments, owner: str, tasks: Sequence[str], inputs: Inputs) -> Block:
    """The Gaussian classifier as an unfrozen block of its own small program; it reads no other.

    Its logits are the log-likelihoods of the classes of ``tasks``, names in order, each class as
    likely as any other beforehand, up to a number that is the same for all.
    """
    sums = torch.cat([moments.sums[task] for task in tasks])
    rows = sums[:, -1:].clamp_min(1.0)
    means = sums[:, :-1] / rows
    features = len(moments.bias)
    within = (moments.products - (means * rows).T @ means) / rows.sum()
    ridge = SHRINKAGE * within.trace() / features
    weight = torch.linalg.solve(within + ridge * torch.eye(features, dtype=torch.double), means.T).T
    bias = -0.5 * (weight * means).sum(1)
    traced = _traced(inputs.shape)
    (group,) = traced.groups
    widths = {owner: {group: features, HEAD: len(means)}}
    projection, head = linear(moments.weight, moments.bias), linear(weight.float(), bias.float())
    layers = {"random_features": projection, HEAD: head}
    return Block(Program(traced.steps, {group: features}), owner, (), widths, layers)


@lru_cache(16)
def _traced(shape: tuple[int, ...]) -> Program:
    """The program of random features of inputs of this ``shape``, some of which stand for any number."""
    projection = linear(torch.zeros(4, prod(shape)), torch.zeros(4))
    trunk = OrderedDict(flat=nn.Flatten(), random_features=projection, relu=nn.ReLU())
    return trace(nn.Sequential(trunk), torch.zeros(2, *shape))


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A layer with these weights (out, in) and bias (out,), copied."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.load_state_dict({"weight": weight.clone(), "bias": bias.clone()}, assign=True)
    return layer
