"""``make bench-prune``: every score with every schedule, on digits in five tasks.

What is left (neurons of both hidden layers, all tasks), what finding it cost (recovery epochs, trials,
CPU seconds as a multiple of the plain network's in the same run), and what it is worth: oracle accuracy
on a validation part of each seed's training data. Test parts are never read.

The pace of the schedule "fast" was chosen on seeds 0 to 11; what it is worth beside the constant step
is measured on twenty others, paired by seed (``fast_minus_constant``).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from rich.progress import track

from benchmarks.report import interval, publish
from benchmarks.settle import validation_oracle
from benchmarks.train import INPUTS, PRUNING, TASKS, TRAINING, Split, plain
from eideticnet import EideticNetwork, Event, Pruning
from eideticnet.learn.schedules import SCHEDULES
from eideticnet.learn.scores import SCORES
from eideticnet.models import mlp

SEEDS = range(4)
UNSEEN = range(12, 32)
"""On none of these was anything chosen."""
COMPARED = ("recovery_epochs", "neurons", "oracle", "seconds")
Row = dict[str, float]


def settings() -> dict[str, Pruning]:
    """What is compared, by name: all pairs, and the halved learning rate for the default pair."""
    schedules = [schedule for schedule in SCHEDULES if schedule != "shrinking"]  # which is constant, too
    pairs = {f"{a}.{b}": replace(PRUNING, score=a, schedule=b) for a in SCORES for b in schedules}
    return {**pairs, "l2.constant.lr0.5": replace(PRUNING, lr_factor=0.5)}


def measure(split: Split, seed: int, pruning: Pruning) -> Row:
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


def summary(rows: Mapping[str, Sequence[Row]]) -> dict[str, float]:
    """Mean and 95 % interval of each figure for each pair, and of the oracle accuracy's difference to
    the default's."""
    figures = {}
    for name, found in rows.items():
        for key in found[0]:
            values = [row[key] for row in found]
            figures[f"{name}.{key}"] = sum(values) / len(values)
            figures[f"{name}.{key}.ci95"] = interval(values)
        figures |= difference(f"{name}.oracle_gained", "oracle", found, rows["l2.constant"])
    return figures


def difference(name: str, key: str, first: Sequence[Row], second: Sequence[Row]) -> dict[str, float]:
    """Mean of ``first`` minus ``second`` over the seeds, with its 95 % interval."""
    values = [a[key] - b[key] for a, b in zip(first, second, strict=True)]
    return {name: sum(values) / len(values), f"{name}.ci95": interval(values)}


def hurry(rows: Mapping[str, Sequence[Row]]) -> dict[str, float]:
    """The fast schedule's figures beside the constant one's, on seeds by which nothing was chosen."""
    fast, constant = rows["fast"], rows["constant"]
    figures = {}
    for key in COMPARED:
        total = [sum(row[key] for row in found) for found in (fast, constant)]
        figures[f"unseen.fast.{key}"], figures[f"unseen.constant.{key}"] = (t / len(fast) for t in total)
        figures[f"unseen.fast_over_constant.{key}"] = total[0] / total[1]
        figures |= difference(f"unseen.fast_minus_constant.{key}", key, fast, constant)
    return figures


def main() -> None:
    """Publish each pair's figures, and how the fast schedule compares."""
    torch.set_num_threads(1)
    rows: dict[str, list[Row]] = {name: [] for name in settings()}
    for seed in track(SEEDS, "all pairs"):
        split = Split.of(seed).validation(seed)
        start = time.process_time()
        plain(seed, split)
        seconds = time.process_time() - start
        for name, pruning in settings().items():
            row = measure(split, seed, pruning)
            rows[name].append({**row, "seconds_over_plain": row["seconds"] / seconds})
    unseen: dict[str, list[Row]] = {"constant": [], "fast": []}
    for seed in track(UNSEEN, "fast and constant"):
        split = Split.of(seed).validation(seed)
        for schedule in ("constant", "fast"):
            unseen[schedule].append(measure(split, seed, replace(PRUNING, schedule=schedule)))
    details = {"seeds": list(SEEDS), "rows": rows, "unseen_seeds": list(UNSEEN), "unseen": unseen}
    publish("prune", {**summary(rows), **hurry(unseen)}, details)


if __name__ == "__main__":
    main()
