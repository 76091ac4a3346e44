"""Sums of random features of the tasks' data: what may be kept of it beside examples.

The features never change (relu of a random projection of the input, of patches of an image, or of the first
task's frozen features), so what was summed over an old task's data stays true for ever, and adding up task by
task gives what all data at once would have given. From the sums follows a router in closed form
(``route/gaussian.py``): no training, no order, nothing to forget.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eideticnet.block import Block, together
from eideticnet.data.rows import Rows
from eideticnet.errors import DataError
from eideticnet.inputs import Inputs
from eideticnet.program import INPUT, Program, Step
from eideticnet.rules import with_taps
from eideticnet.rules.taps import side_by_side
from eideticnet.seeding import seeded
from eideticnet.trace.tracing import trace

Of = Literal["input", "patches", "first"]
"""What random features are of: the whole input, patches of an image, or what the layers of the first task's
block give, which is frozen when the second one comes."""
FEATURES = 1024
"""How many random features there are by default."""
MOST_FEATURES = 1 << 15
"""Their products take 8 GiB."""
WIDEST = 4096
"""Inputs of more numbers get no moments unasked: the projection would outgrow most trunks, and what
random features of whole photographs tell is little."""
SPREAD = 0.3
"""Standard deviation of the random biases, where inputs and projections have about 1."""
SLEEPING = 1e-3
"""Share of the mean variance that a feature is taken to have at least."""
PATCH = 5
"""Rows and columns of a patch."""
GRID = 6
"""A filter's answers are averaged over about as many places in each direction."""
PROJECTION = "random_features"
PREFIX = "moments."
"""Of names that no trunk's can be: those of its values have no dots."""


@dataclass(frozen=True)
class Moments:
    """What is kept of the tasks' data: sums of D random features, no examples.

    ``weight`` (D, F) and ``bias`` (D,) project normalised inputs, flattened, or the first task's features; or
    ``weight`` (K, C, P, P) are K filters of patches, with D / K places of the grid for each. ``products``
    (D, D) sums the outer products over all rows; ``sums`` holds, by task name, the sum of each class's
    features and in the last column its rows, (C, D + 1). All sums are float64, on the CPU.
    """

    weight: Tensor
    bias: Tensor
    products: Tensor
    sums: Mapping[str, Tensor]
    of: Of = "input"

    def features(self, x: Tensor) -> Tensor:
        """(N, D) for normalised ``x`` (N, *shape), or for the first task's features (N, F) of it."""
        if self.of != "patches":
            return F.relu(F.linear(x.flatten(1), self.weight, self.bias))
        z = F.relu(F.conv2d(x, self.weight, self.bias))
        return F.avg_pool2d(z, _window(x.shape[1:])).flatten(1)

    def only(self, neurons: Tensor) -> Moments:
        """What would have been kept with these rows of ``weight`` alone, sorted indices."""
        places = len(self.products) // len(self.bias)
        kept = (neurons[:, None] * places + torch.arange(places)).flatten()
        columns = torch.cat([kept, torch.tensor([len(self.products)])])
        sums = {name: sums[:, columns] for name, sums in self.sums.items()}
        products = self.products[kept][:, kept]
        return Moments(self.weight[neurons], self.bias[neurons], products, sums, self.of)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name; ``from_tensors`` is the inverse."""
        kind = _prefix(self.of)
        own = {f"{kind}weight": self.weight, f"{kind}bias": self.bias, "products": self.products}
        return own | {f"sums.{name}": sums for name, sums in self.sums.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Moments:
        sums = {k.partition(".")[2]: v for k, v in tensors.items() if k.startswith("sums.")}
        kinds: dict[str, Of] = {f"{_prefix(of)}weight": of for of in get_args(Of)}
        (of,) = (kinds[name] for name in tensors if name in kinds)
        weight, bias = (tensors[f"{_prefix(of)}{name}"] for name in ("weight", "bias"))
        return cls(weight, bias, tensors["products"], sums, of)


def _prefix(of: Of) -> str:
    return "" if of == "input" else f"{of}."


def check_of(of: object, features: int) -> None:
    """Raise ``DataError`` for what no random features are of, and where there are to be none."""
    if of not in get_args(Of):
        raise DataError(f"moments_of={of!r}: use {', '.join(get_args(Of))}")
    if of != "input" and not features:
        raise DataError(f"moments_of={of!r} without a number: set moments={FEATURES} or so, too")


def check_features(known: Moments | None, inputs: Inputs, features: int, of: Of) -> None:
    """Raise ``DataError`` if this number of ``features`` can't be added to what is ``known``."""
    if of != "first" and inputs.dtype != "float32":
        raise DataError(
            "moments are kept of float32 inputs alone; keep those of the first task's features "
            '(moments_of="first") or examples (memory=K) instead'
        )
    if of == "patches" and (len(inputs.shape) != 3 or min(inputs.shape[1:]) < PATCH):
        raise DataError(
            f'moments_of="patches" needs images (channels, height, width) of {PATCH}x{PATCH} or more, and '
            f"inputs are {inputs.shape}"
        )
    if features > MOST_FEATURES:
        size = 8 * features**2 >> 30
        raise DataError(f"moments={features} would keep {size} GiB of products; use up to {MOST_FEATURES}")
    if known is not None and known.of != of:
        raise DataError(
            f"moments_of={of!r}, but those of earlier tasks are of {known.of!r}; all need the same"
        )
    if known is not None and len(known.bias) != _neurons(features, of, inputs.shape):
        raise DataError(f"moments={features}, but {len(known.products)} features were kept of earlier tasks")


@torch.no_grad()
def gather(
    known: Moments | None,
    task: str,
    rows: Rows,
    features: int,
    *seed: object,
    of: Of = "input",
    first: Block | None = None,
) -> Moments:
    """``known`` and the sums over ``rows`` of one more task; the first one decides the projection. Of a task
    that is known those of the classes that it has got since. ``first`` is the block of the first task, where
    features are of its features."""
    names, inputs = (*seed, "moments"), rows.inputs
    check_features(known, inputs, features, of)
    read = _source(of, first)
    if known is None:
        known = _projection(rows, _neurons(features, of, inputs.shape), of, read, *names)
    products = known.products.clone()
    sums = torch.zeros(len(rows.classes), len(products) + 1, dtype=torch.double)
    had = known.sums.get(task, sums[:0])
    sums[: len(had)] = had
    for x, y in rows.batches(*names):
        if len(had):
            x, y = x[y >= len(had)], y[y >= len(had)]
            if not len(y):
                continue
        z = known.features(read(inputs.normalise(x.cpu())))
        products += (z.T @ z).double()
        sums.index_add_(0, y.cpu(), F.pad(z, (0, 1), value=1.0).double())
    return replace(known, products=products, sums={**known.sums, task: sums})


def _source(of: Of, first: Block | None) -> Callable[[Tensor], Tensor]:
    """What random features are made of, for normalised inputs."""
    if of != "first":
        return lambda x: x
    assert first is not None, "there is a first task"
    device = next(iter(first.layers.state_dict().values())).device
    taps = with_taps(first.program).steps[-1]

    def read(x: Tensor) -> Tensor:
        values = together([first], x.to(device), keep=taps.inputs)[first.owner]
        return side_by_side(taps, [values[name] for name in taps.inputs if name in values]).cpu()

    return read


def _neurons(features: int, of: Of, shape: Sequence[int]) -> int:
    """How many rows the projection has, for about this number of features."""
    return features if of != "patches" else max(1, round(features / prod(_places(shape))))


def _window(shape: Sequence[int]) -> tuple[int, int]:
    """How many places of images of this ``shape`` (C, H, W) a filter's answers are averaged over."""
    height, width = (max((side - PATCH + 1) // GRID, 1) for side in shape[-2:])
    return height, width


def _places(shape: Sequence[int]) -> list[int]:
    return [(side - PATCH + 1) // w for side, w in zip(shape[-2:], _window(shape), strict=True)]


def _projection(
    rows: Rows, neurons: int, of: Of, read: Callable[[Tensor], Tensor], *names: object
) -> Moments:
    """Random weights for values brought to mean 0 and variance 1, as the first task's data has them: the
    numbers of an input in the mean, each feature of the first task's by itself. All pixels of a channel have
    one mean."""
    count, total, square = 0, torch.zeros(()), torch.zeros(())
    for x, _ in rows.batches(*names):
        x = read(rows.inputs.normalise(x.cpu()))
        x = (x.movedim(1, -1).flatten(0, -2) if of == "patches" else x.flatten(1)).double()
        squares = x.square().sum(0) if of == "first" else x.square().sum()
        count, total, square = count + len(x), total + x.sum(0), square + squares
    mean = total / count
    if of == "first":  # its layers' features have scales of their own, and may wake up later
        variance = square / count - mean.square()
        variance = variance.clamp_min(SLEEPING * variance.mean())
    else:
        variance = square / count / len(mean) - mean.square().mean()
    patch = (PATCH, PATCH) if of == "patches" else ()
    with seeded(*names):
        weight = torch.randn(neurons, len(mean), *patch, dtype=torch.double)
        weight = weight / (len(mean) * prod(patch)) ** 0.5
        bias = SPREAD * torch.randn(neurons, dtype=torch.double)
    weight = weight / variance.clamp_min(1e-12).sqrt()
    features = neurons * (prod(_places(rows.inputs.shape)) if patch else 1)
    nothing = torch.zeros(features, features, dtype=torch.double)
    summed = weight.flatten(2).sum(2) if patch else weight
    return Moments(weight.float(), (bias - summed @ mean).float(), nothing, {}, of)


def program_of(moments: Moments, inputs: Inputs, first: Block | None) -> tuple[Program, str]:
    """The program of a block whose head reads the random features, and the group of its neurons, which is
    also the path of its projection. Where they are of the first task's features, it has that task's steps
    before them."""
    own = _traced(moments.of, inputs.shape)
    (group,) = own.groups
    count = {group: len(moments.bias)}
    if moments.of != "first":
        return Program(own.steps, count), group
    assert first is not None, "there is a first task"
    projection, relu = (renamed(step) for step in own.steps[:-1])
    taps = with_taps(first.program).steps[-1]
    steps = [replace(projection, rule="taps", inputs=taps.inputs, options=taps.options), relu]
    head = replace(first.program.steps[-1], inputs=(steps[-1].name,))
    group = f"{PREFIX}{group}"
    groups = {**first.program.groups, group: len(moments.bias)}
    return Program((*first.program.steps[:-1], *steps, head), groups), group


@lru_cache(16)
def _traced(of: Of, shape: tuple[int, ...]) -> Program:
    """The program of random features of what has this ``shape``, some of which stand for any number."""
    if of == "first":
        trunk = OrderedDict[str, nn.Module]({PROJECTION: layer(torch.zeros(4, 2), torch.zeros(4))})
        shape = (2,)
    elif of == "patches":
        filters = layer(torch.zeros(4, shape[0], PATCH, PATCH), torch.zeros(4))
        trunk = OrderedDict[str, nn.Module]({PROJECTION: filters})
    else:
        projection = layer(torch.zeros(4, prod(shape)), torch.zeros(4))
        trunk = OrderedDict[str, nn.Module](flat=nn.Flatten(), **{PROJECTION: projection})
    trunk["relu"] = nn.ReLU()
    if of == "patches":
        trunk |= {"mean": nn.AvgPool2d(_window(shape)), "flat": nn.Flatten()}
    return trace(nn.Sequential(trunk), torch.zeros(2, *shape))


def renamed(step: Step) -> Step:
    """The step under names that no trunk's can be."""
    runs = tuple(replace(run, group=f"{PREFIX}{run.group}") for run in step.features.runs)
    return replace(
        step,
        name=f"{PREFIX}{step.name}",
        inputs=tuple(name if name == INPUT else f"{PREFIX}{name}" for name in step.inputs),
        features=replace(step.features, runs=runs),
        layer=None if step.layer is None else f"{PREFIX}{step.layer}",
    )


def layer(weight: Tensor, bias: Tensor) -> nn.Module:
    """A layer with this weight (out, in) or (out, in, P, P) and bias (out,), copied."""
    out, wide, *patch = weight.shape
    made = nn.Conv2d(wide, out, PATCH, device="meta") if patch else nn.Linear(wide, out, device="meta")
    made.load_state_dict({"weight": weight.clone(), "bias": bias.clone()}, assign=True)
    return made
