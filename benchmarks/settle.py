"""``make bench-settle``: how long a pruned task should train on, chosen on validation data.

Each seed's training part of digits is split once more; the held-out test part is never read.
"""

from __future__ import annotations

import time

import torch
from rich.progress import track

from benchmarks.report import interval, publish
from benchmarks.train import INPUTS, PRUNING, TASKS, Split
from eideticnet import EideticNetwork, Training
from eideticnet.models import mlp

SEEDS = range(100, 110)
PATIENCES = (5, 20, 50)


def oracle(split: Split, seed: int, patience: int) -> float:
    """Mean accuracy over the tasks, each task given, on the validation part."""
    net = EideticNetwork(mlp(64), split.x[:2], inputs=INPUTS, seed=seed)
    rights = []
    for digits in TASKS:
        training = Training(settle_patience=patience)
        net.train_task(str(digits), split.task(digits), ["a", "b"], pruning=PRUNING, training=training)
        (x, y), *_ = [split.test_task(digits).dataset.tensors]  # type: ignore[attr-defined]
        right = net.task_logits(x, str(digits)).argmax(1) == y
        rights.append(sum(float(right[y == c].double().mean()) for c in (0, 1)) / 2)
    return sum(rights) / len(rights)


def main() -> None:
    """Publish the validation accuracy and the seconds for each patience."""
    torch.set_num_threads(1)
    figures = {}
    for patience in PATIENCES:
        start, seeds = time.perf_counter(), track(SEEDS, f"patience {patience}")
        values = [oracle(Split.of(seed).validation(seed), seed, patience) for seed in seeds]
        figures[f"settle{patience}.oracle"] = sum(values) / len(values)
        figures[f"settle{patience}.oracle.ci95"] = interval(values)
        figures[f"settle{patience}.seconds"] = (time.perf_counter() - start) / len(values)
    publish("settle", figures, {"seeds": list(SEEDS)})


if __name__ == "__main__":
    main()
