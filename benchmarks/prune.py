"""``make bench-prune``: every score with every schedule, on digits in five tasks.

What is left (neurons of both hidden layers, all tasks), what finding it cost (recovery epochs, trials,
CPU seconds as a multiple of the plain network's in the same run), and what it is worth: oracle accuracy
on a validation part of each seed's training data. Test parts are never read.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import torch
from rich.progress import track

from benchmarks.report import interval, publish
from benchmarks.settle import validation_oracle
from benchmarks.train import INPUTS, PRUNING, TASKS, TRAINING, Split, plain
from eideticnet import EideticNetwork, Event, Pruning
from eideticnet.models import mlp
from eideticnet.schedules import SCHEDULES
from eideticnet.scores import SCORES

SEEDS = range(4)


def settings() -> dict[str, Pruning]:
    """What is compared, by name: all pairs, and the halved learning rate for the default pair."""
    pairs = {f"{a}.{b}": replace(PRUNING, score=a, schedule=b) for a in SCORES for b in SCHEDULES}
    return {**pairs, "l2.constant.lr0.5": replace(PRUNING, lr_factor=0.5)}


def measure(split: Split, seed: int, pruning: Pruning) -> dict[str, float]:
    """Learn the five tasks of one split; the figures of one row."""
    counted: Counter[str] = Counter()

    def count(event: Event) -> None:
        counted[event.phase] += 1

    start = time.process_time()
    net = EideticNetwork(mlp(64), split.x[:2], inputs=INPUTS, seed=seed)
    for digits in TASKS:
        net.train_task(
            str(digits), split.task(digits), ["a", "b"], pruning=pruning, training=TRAINING, report=count
        )
    layers = net.capacity().values()
    left = [row["total"] - row["free"] for row in layers]
    return {
        "seconds": time.process_time() - start,
        "oracle": validation_oracle(net, split),
        "neurons": sum(left),
        "first_layer": left[0],
        "recovery_epochs": counted["recover"],
        "trials": counted["prune"],
    }


def main() -> None:
    """Publish mean and 95 % interval of each figure for each pair, and differences to the default's."""
    torch.set_num_threads(1)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in settings()}
    for seed in track(SEEDS, "seeds"):
        split = Split.of(seed).validation(seed)
        start = time.process_time()
        plain(seed, split)
        seconds = time.process_time() - start
        for name, pruning in settings().items():
            row = measure(split, seed, pruning)
            rows[name].append({**row, "seconds_over_plain": row.pop("seconds") / seconds})
    figures = {}
    for name, found in rows.items():
        for key in found[0]:
            values = [row[key] for row in found]
            figures[f"{name}.{key}"] = sum(values) / len(values)
            figures[f"{name}.{key}.ci95"] = interval(values)
        pairs = zip(found, rows["l2.constant"], strict=True)
        gained = [row["oracle"] - base["oracle"] for row, base in pairs]
        figures[f"{name}.oracle_gained"] = sum(gained) / len(gained)
        figures[f"{name}.oracle_gained.ci95"] = interval(gained)
    publish("prune", figures, {"seeds": list(SEEDS), "rows": rows})


if __name__ == "__main__":
    main()
