"""``make bench-routing``: every router, decision and memory, on digits and on MNIST in five tasks.

Each seed's training part is split once more: everything is trained on the rest, choices and
calibration are made on the validation part, test data is read once. The rule for the default: of
the routers that learn from all data, the pair of router and decision with the highest validation
accuracy, as the mean over the problems; K = 0 likewise among those that have no data at all. The
plain net on all classes gets the same rows and the same recipe; further rows are its product with
the moments, weighed on validation data like the routers "experts", and a plain net of twice the
width, because a wide router has as many neurons as the plain net and the tasks theirs beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks.problems import problems
from benchmarks.report import interval, publish
from benchmarks.routers import run
from benchmarks.routing_report import draw, table

Results = dict[str, list[dict[str, Any]]]
"""For each problem what ``run`` found, seed by seed."""
Key = tuple[str, str, str]
"""Router, decision, data."""
KEYS = ("router", "decision", "data")


def column(result: Sequence[dict[str, Any]], key: Key, what: str) -> list[float]:
    """One figure of one row of the table, for each seed."""
    return [float(r[what]) for seed in result for r in seed["rows"] if tuple(r[k] for k in KEYS) == key]


def choose(results: Results, data: str) -> Key:
    """The row with the highest validation accuracy among those that learn from ``data`` on every
    problem."""
    keys = [[tuple(row[k] for k in KEYS) for row in r[0]["rows"]] for r in results.values()]
    candidates = [key for key in keys[0] if key[2] == data and all(key in others for others in keys)]
    return max(candidates, key=lambda key: mean(mean(column(r, key, "validation")) for r in results.values()))


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean."""
    values = list(values)
    return sum(values) / len(values)


def figures(results: Results, default: Key, without: Key) -> dict[str, float]:
    """Means over the seeds with their 95 % intervals, differences paired by seed."""
    found: dict[str, float] = {}
    for name, result in results.items():
        plain = [seed["plain"]["test"] for seed in result]
        routed, blind = column(result, default, "test"), column(result, without, "test")
        columns = {
            "oracle": [seed["oracle"] for seed in result],
            "routed": routed,
            "plain": plain,
            "routed_minus_plain": [a - b for a, b in zip(routed, plain, strict=True)],
            "memory0.routed": blind,
            "memory0.routed_minus_plain": [a - b for a, b in zip(blind, plain, strict=True)],
            "ece.before": column(result, default, "ece_before"),
            "ece": column(result, default, "ece"),
            "plain_with_moments": [seed["plain"]["moments_test"] for seed in result],
            "plain_of_double_width": [seed["plain"]["double_test"] for seed in result],
            **unknowns(result, default),
        }
        for key, values in columns.items():
            found |= {f"{name}.{key}": mean(values), f"{name}.{key}.ci95": interval(values)}
        found[f"{name}.drift"] = max(seed["drift"] for seed in result)
    return found


def unknowns(result: Sequence[dict[str, Any]], default: Key) -> dict[str, list[float]]:
    """Shares of the known and of the unknown task's inputs that the default router rejects."""
    mine = [r for seed in result for r in seed["unknown"] if (r["router"], r["decision"]) == default[:2]]
    return {f"unknown.{what}": [r[what] for r in mine] for what in ("false_rejections", "rejected")}


def main() -> None:
    """Run all seeds, or read them from the cache; publish figures, table and plot. ``--only PROBLEM``: of
    one problem, under a name of its own."""
    parser = argparse.ArgumentParser(prog="benchmarks.routing", description=main.__doc__)
    parser.add_argument("--only", choices=[problem.name for problem in problems()])
    only = parser.parse_args().only
    wanted = [problem for problem in problems() if only in (None, problem.name)]
    name = f"routing_{only}" if only else "routing"
    torch.set_num_threads(1)
    results: Results = {}
    with Progress(console=Console(stderr=True)) as progress:
        for problem in wanted:
            for seed in progress.track(problem.seeds, description=problem.name):
                results.setdefault(problem.name, []).append(run(problem, seed))
    default, without = choose(results, "all"), choose(results, "none")
    details = {"default": default, "memory0": without, "seeds": results}
    table(name, results, default, without)
    draw(name, results)
    publish(name, figures(results, default, without), details)


if __name__ == "__main__":
    main()
