"""Inputs that a graph is tried on before it leaves, such as requests may hold; edges of the range as well."""

from __future__ import annotations

import numpy as np
import torch

from eideticnet import EideticNetwork, Inputs
from eideticnet.export.graph.session import Array

_PROBES = 2
"""Of each task, which are synthetic unless the network keeps real ones."""
_NEAR = (0.1, 0.3, 1.0, 1.0, 1.0, 2.0, 2.0, 5.0)
_FAR = (100.0, 1000.0, 1000.0)
"""Deviations from the mean, in terms of the stated one, as far as the range allows."""


def trial_inputs(net: EideticNetwork) -> tuple[Array, Array]:
    """Raw inputs (N, *shape): probes of every task, random ones, and the edges of the stated range; and (N,)
    which of them a smaller type has to compute as well: all but those far out where the range is open."""
    spec, random = net.inputs, np.random.default_rng(0)
    rows = [task.probes[:_PROBES].numpy() for task in net.tasks]
    if spec.dtype == "int64":
        low, high = (int(bound) for bound in spec.bounds())
        rows.append(random.integers(low, high, (8, *spec.shape), endpoint=True))
    else:
        rows.append(_around(spec, random, _NEAR))
    rows += _edges(spec, random)
    near = np.ones(sum(map(len, rows)), bool)
    if spec.dtype == "float32" and None in (spec.low, spec.high):
        rows.append(_around(spec, random, _FAR))
        near = np.concatenate([near, np.zeros(len(_FAR), bool)])
    return np.concatenate(rows).astype(rows[0].dtype), near


def _around(spec: Inputs, random: np.random.Generator, scales: tuple[float, ...]) -> Array:
    """A row of normally distributed numbers for each of ``scales``, and clipped to the range."""
    x = random.standard_normal((len(scales), *spec.shape))
    x *= np.reshape(scales, (-1, *[1] * len(spec.shape)))
    one, zero = (torch.full(spec.shape, value, dtype=torch.float64)[None] for value in (1.0, 0.0))
    mean = -Inputs(spec.shape, mean=spec.mean).normalise(zero).numpy()
    std = 1 / Inputs(spec.shape, std=spec.std).normalise(one).numpy()
    around: Array = np.clip(mean + std * x, spec.low, spec.high)
    return around


def _edges(spec: Inputs, random: np.random.Generator) -> list[Array]:
    """A row of each edge that is stated, and where both are, rows of either and of what lies between."""
    bounds = [bound for bound in (spec.low, spec.high) if bound is not None]
    edges = [np.full((1, *spec.shape), bound) for bound in bounds]
    if len(bounds) == 2 and spec.dtype == "float32":
        edges.append(random.choice(bounds, (2, *spec.shape)))
        edges.append(random.uniform(bounds[0], bounds[1], (4, *spec.shape)))
    return edges
