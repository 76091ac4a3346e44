"""``make bench-settle``: how long a pruned task should train on, chosen on validation data.

Each seed's training part of digits, the same that ``make bench-train`` has, is split once more; that
seed's test part is never read. The rule: the shortest patience whose mean lies within the 95 %
interval of the best one's.
"""

from __future__ import annotations

import time

import torch
from rich.progress import track

from benchmarks.report import interval, publish
from benchmarks.train import INPUTS, PRUNING, SEEDS, TASKS, Split
from eideticnet import EideticNetwork, Training
from eideticnet.models import mlp

PATIENCES = (5, 20, 50)


def oracle(split: Split, seed: int, patience: int) -> float:
    """Mean accuracy over the tasks, each task given, on the validation part."""
    net = EideticNetwork(mlp(64), split.x[:2], inputs=INPUTS, seed=seed)
    for digits in TASKS:
        training = Training(settle_patience=patience)
        net.train_task(str(digits), split.task(digits), ["a", "b"], pruning=PRUNING, training=training)
    return validation_oracle(net, split)


def validation_oracle(net: EideticNetwork, split: Split) -> float:
    """Mean over the tasks, which are called like ``str(digits)``, and over their classes."""
    rights = []
    for digits in TASKS:
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
    best = max(PATIENCES, key=lambda p: figures[f"settle{p}.oracle"])
    enough = figures[f"settle{best}.oracle"] - figures[f"settle{best}.oracle.ci95"]
    figures["settle.chosen"] = min(p for p in PATIENCES if figures[f"settle{p}.oracle"] >= enough)
    publish("settle", figures, {"seeds": list(SEEDS)})


if __name__ == "__main__":
    main()
