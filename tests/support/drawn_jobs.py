"""What users pass as names and numbers, good or not: for properties of whatever ``train_task`` accepts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from eideticnet import EideticNetwork, Inputs, batches
from tests.support.small_networks import LIGHT, QUICK, task_data
from tests.support.small_trunks import FEATURES

X, Y = task_data(0)
NUMBERS = X.numpy()
ODD = st.text(max_size=3) | st.text("aé\u0301\u200b\u202e\ud800\n\t", max_size=4) | st.just("n" * 201)
TEXT = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=6) | st.just("n" * 200)

LOW = [None, X.min(), NUMBERS.min(), float(X.min()), -math.inf, -10, np.finfo(np.float32).min, np.int64(-9)]
HIGH = [None, X.max(), NUMBERS.max(), float(X.max()), math.inf, 10, torch.tensor(9), 10**20]
MEAN = [(), X.mean(0), NUMBERS.mean(0), X.mean(0, keepdim=True), X.mean(), 0.5, [0.5] * FEATURES, (0,)]
STD = [(), X.std(0), NUMBERS.std(0), X.std(0).tolist(), X.std(), 2, np.float64(1.5), [np.float32(2)]]
BAD = [math.nan, True, "1", 1e39, torch.zeros(2), X.std(0) * 0, 10**400, [None], math.inf, -1e-320]
SHAPES = [(FEATURES,), [FEATURES], FEATURES, X.shape[1:], NUMBERS.shape[1:], torch.tensor([FEATURES])]
SEEDS = [0, 7, -3, 2**80, np.int64(5), np.uint8(9), torch.tensor(3), True]


@dataclass(frozen=True)
class Job:
    """What a user passes to ``Inputs``, ``EideticNetwork`` and ``train_task``."""

    inputs: dict[str, Any]
    seed: Any
    name: Any
    classes: Any

    def learn(self, report: Any = lambda event: None) -> EideticNetwork:
        """The network that learned it, with a router."""
        trunk = nn.Sequential(nn.Linear(FEATURES, 6), nn.ReLU())
        net = EideticNetwork(trunk, X[:2], inputs=Inputs(**self.inputs), seed=self.seed)
        loader = batches(X, Y, 24)
        task = net.train_task(
            self.name, loader, self.classes, training=QUICK, pruning=LIGHT, memory=2, moments=4, report=report
        )
        net.fit_router({task.name: loader}, training=QUICK)
        return net


GOOD = {
    "shape": SHAPES,
    "dtype": ["float32", torch.float32, np.float32, np.dtype("float32")],
    "low": LOW,
    "high": HIGH,
    "mean": MEAN,
    "std": STD,
}
WRONG = {
    "shape": [(), FEATURES + 0.5, "6", (6, 0), (1,) * 17, (1 << 31,)],
    "dtype": ["float", np.float64, "int64"],
    "low": BAD,
    "high": BAD,
    "mean": BAD,
    "std": BAD,
}
CLASSES = [np.unique(Y.numpy()), Y.unique(), [0, 1], range(2), np.array([False, True]), (0.5, 1.5)]
CLASSES += [np.array(["cat", "dog"]), {"a": 0, "b": 1}.keys(), ["0", 1], [np.str_("a"), "b"]]
NO_CLASSES = [{"a", "b"}, ["a", "a"], [1, "1"], ["é", "e\u0301"], "ab", [b"a", b"b"], [None, 1], ["a"], 2, Y]


def jobs() -> st.SearchStrategy[Job]:
    """Jobs that are meant well, and such with one thing wrong."""
    inputs = st.fixed_dictionaries({key: st.sampled_from(values) for key, values in GOOD.items()})
    names = st.sampled_from(["birds", "0 or 1", "東京", np.str_("a")]) | TEXT
    pairs = st.lists(TEXT, min_size=2, max_size=2)
    classes = st.sampled_from(CLASSES) | pairs | pairs.map(np.array) | st.builds(lambda: iter("ab"))
    good = st.builds(Job, inputs, st.sampled_from(SEEDS), names, classes)
    spoilt = st.builds(_spoilt, good, _mistakes())
    return st.integers(0, 2).flatmap(lambda n: good if n else spoilt)


def _mistakes() -> st.SearchStrategy[tuple[str, Any]]:
    numbers = [st.tuples(st.just(key), st.sampled_from(values)) for key, values in WRONG.items()]
    names = st.tuples(st.just("name"), ODD | st.sampled_from([3, None]))
    pairs = st.lists(ODD, max_size=3) | st.sampled_from(NO_CLASSES)
    seeds = st.sampled_from([1.5, "1", None])
    return st.one_of(*numbers, names, st.tuples(st.just("classes"), pairs), st.tuples(st.just("seed"), seeds))


def _spoilt(job: Job, mistake: tuple[str, Any]) -> Job:
    key, value = mistake
    if key in GOOD:
        return replace(job, inputs=job.inputs | {key: value})
    return replace(job, **{key: value})
