"""``make bench-train``: digits in five tasks against one plain network on all ten classes.

Both are trained by the same code with the same recipe (Adam 1e-3, batch 64, patience 5, then 20 to
settle), in one process on one thread, on the same 75 % of the data; the other 25 % are read once,
at the end. Then what a training step costs, the size of what is stored (``steps.py``), and the memory that
training takes (``peaks.py``).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.progress import track
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from benchmarks import peaks, steps
from benchmarks.report import interval, publish
from eideticnet import EideticNetwork, Inputs, Pruning, Routing, Training, batches
from eideticnet.data.rows import Loader
from eideticnet.experiments.baselines.plain import fit
from eideticnet.models import mlp
from eideticnet.runs.evaluation import evaluate

SEEDS = range(10)
TASKS = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
INPUTS = Inputs((64,), low=0.0, high=16.0, std=(16.0,))
TRAINING = Training(patience=5)
PRUNING = Pruning(score="l2", step=0.1, threshold=0.01, recovery_epochs=5)


@dataclass(frozen=True)
class Split:
    """Raw pixels (N, 64) and digits (N,), for training and held out."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    @classmethod
    def of(cls, seed: int) -> Split:
        """All digits, a stratified quarter held out."""
        x, y = load_digits(return_X_y=True)
        return cls._quarter(torch.from_numpy(x.astype("float32")), torch.from_numpy(y), seed)

    def validation(self, seed: int) -> Split:
        """The training part alone, a quarter of it held out: what choices are made on."""
        return self._quarter(self.x, self.y, seed)

    @classmethod
    def _quarter(cls, x: Tensor, y: Tensor, seed: int) -> Split:
        train_x, test_x, train_y, test_y = train_test_split(
            x, y, test_size=0.25, random_state=seed, stratify=y
        )
        return cls(train_x, train_y, test_x, test_y)

    def task(self, digits: tuple[int, ...]) -> Loader:
        return _only(self.x, self.y, digits)

    def test_task(self, digits: tuple[int, ...]) -> Loader:
        return _only(self.test_x, self.test_y, digits)


def _only(x: Tensor, y: Tensor, digits: tuple[int, ...]) -> Loader:
    wanted = torch.isin(y, torch.tensor(digits))
    return batches(x[wanted], y[wanted] - digits[0], 64)


def eidetic(seed: int, split: Split) -> dict[str, Any]:
    """Learn the five tasks and the router; accuracies, drift and seconds."""
    start, net = time.perf_counter(), EideticNetwork(mlp(64), split.x[:2], inputs=INPUTS, seed=seed)
    loaders, frozen = {}, {}
    for digits in TASKS:
        name = f"{digits[0]} or {digits[1]}"
        loaders[name] = split.task(digits)
        net.train_task(name, loaders[name], [str(d) for d in digits], pruning=PRUNING, training=TRAINING)
        frozen[name] = net.task_logits(split.test_x, name)
    net.fit_router(loaders, routing=Routing(pruning=None, width="free"), training=TRAINING)
    seconds = time.perf_counter() - start
    drift = max(float((net.task_logits(split.test_x, n) - f).abs().max()) for n, f in frozen.items())
    tests = {t.name: split.test_task(d) for t, d in zip(net.tasks, TASKS, strict=True)}
    reports = evaluate(net, tests).values()
    return {
        "oracle": sum(r.oracle for r in reports) / len(TASKS),
        "routed": sum(r.routed for r in reports) / len(TASKS),
        "drift": drift,
        "seconds": seconds,
        "madds": net.capacity().arithmetic.share,
        "neurons": {g: {k: v for k, v in row.items() if k != "total"} for g, row in net.capacity().items()},
    }


def plain(seed: int, split: Split) -> dict[str, float]:
    """The same trunk with one head of ten classes, trained on everything at once."""
    start = time.perf_counter()
    net = fit("plain", partial(mlp, 64), 10, batches(split.x, split.y, 64), INPUTS, TRAINING, seed)
    seconds = time.perf_counter() - start
    with torch.no_grad():
        right = net(INPUTS.normalise(split.test_x)).argmax(1) == split.test_y
    per_class = [float(right[split.test_y == c].double().mean()) for c in range(10)]
    return {"accuracy": sum(per_class) / 10, "seconds": seconds}


def main() -> None:
    """Run all seeds and publish the means and their 95 % confidence intervals."""
    torch.set_num_threads(1)
    nets, plains = [], []
    for seed in track(SEEDS, "seeds"):
        split = Split.of(seed)
        nets.append(eidetic(seed, split))
        plains.append(plain(seed, split))
    columns = {
        "digits5.oracle": [n["oracle"] for n in nets],
        "digits5.routed": [n["routed"] for n in nets],
        "digits5.plain": [p["accuracy"] for p in plains],
        "digits5.routed_minus_plain": [
            n["routed"] - p["accuracy"] for n, p in zip(nets, plains, strict=True)
        ],
        "digits5.madds": [n["madds"] for n in nets],
        "digits5.seconds": [n["seconds"] for n in nets],
        "plain.seconds": [p["seconds"] for p in plains],
    }
    figures = {key: sum(values) / len(values) for key, values in columns.items()}
    figures |= {f"{key}.ci95": interval(values) for key, values in columns.items()}
    figures["digits5.drift"] = max(n["drift"] for n in nets)
    figures |= steps.figures() | peaks.figures()
    publish("train", figures, {"seeds": list(SEEDS), "eidetic": nets, "plain": plains})


if __name__ == "__main__":
    main()
