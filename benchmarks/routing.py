"""``make bench-routing``: every router, decision and memory, on digits and on MNIST in five tasks.

Each seed's training part is split once more: everything is trained on the rest, choices and
calibration are made on the validation part, test data is read once. **The rule for the default**: of
all routers and decisions that learn from all data, the cheapest, in multiply-adds of the whole answer
(tasks, router, heads), whose validation accuracy is within 0.1 percentage points of the best one's; both
are means over the problems. K = 0 likewise, among those that have no data at all. The plain net on all
classes gets the same rows and the same recipe; a further row is its product with the moments, weighed on
validation data like the routers "experts". What answers cost is in ``answers.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks import answers
from benchmarks.problems import problems
from benchmarks.report import interval, publish
from benchmarks.routers import run
from benchmarks.routing_report import curve, draw, table

Results = dict[str, list[dict[str, Any]]]
"""For each problem what ``run`` found, seed by seed."""
Key = tuple[str, str, str]
"""Router, decision, data."""
KEYS = ("router", "decision", "data")
LOSS = 0.001
"""Of accuracy, for which less arithmetic is taken."""


def column(result: Sequence[dict[str, Any]], key: Key, what: str) -> list[float]:
    """One figure of one row of the table, for each seed."""
    return [float(r[what]) for seed in result for r in seed["rows"] if tuple(r[k] for k in KEYS) == key]


def choose(results: Results, data: str, loss: float = LOSS) -> Key:
    """The cheapest row within ``loss`` of the best validation accuracy, among those that learn from
    ``data`` on every problem; of equally cheap ones the most accurate."""
    keys = [[tuple(row[k] for k in KEYS) for row in r[0]["rows"]] for r in results.values()]
    candidates = [key for key in keys[0] if key[2] == data and all(key in others for others in keys)]

    def over_problems(key: Key, what: str) -> float:
        return mean(mean(column(r, key, what)) for r in results.values())

    reached = {key: over_problems(key, "validation") for key in candidates}
    enough = [key for key in candidates if reached[key] >= max(reached.values()) - loss]
    return min(enough, key=lambda key: (over_problems(key, "multiply_adds"), -reached[key]))


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean."""
    values = list(values)
    return sum(values) / len(values)


def figures(results: Results, default: Key, best: Key, without: Key) -> dict[str, float]:
    """Means over the seeds with their 95 % intervals, differences paired by seed; of the default, the
    router that is ``best`` on validation data whatever it costs, and the one without old data."""
    found: dict[str, float] = {}
    for name, result in results.items():
        plain = [seed["plain"]["test"] for seed in result]
        routed, dear, blind = (column(result, key, "test") for key in (default, best, without))
        columns = {
            "oracle": [seed["oracle"] for seed in result],
            "routed": routed,
            "plain": plain,
            "routed_minus_plain": [a - b for a, b in zip(routed, plain, strict=True)],
            "best.routed": dear,
            "best.routed_minus_plain": [a - b for a, b in zip(dear, plain, strict=True)],
            "best.madds": column(result, best, "multiply_adds"),
            "memory0.routed": blind,
            "memory0.routed_minus_plain": [a - b for a, b in zip(blind, plain, strict=True)],
            "ece.before": column(result, default, "ece_before"),
            "ece": column(result, default, "ece"),
            "plain_with_moments": [seed["plain"]["moments_test"] for seed in result],
            "madds": column(result, default, "multiply_adds"),
            **unknowns(result, default),
        }
        found |= means({f"{name}.{key}": values for key, values in columns.items()})
        found[f"{name}.drift"] = max(seed["drift"] for seed in result)
    return found


def means(columns: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Of each column the mean over the seeds, with its 95 % interval."""
    found: dict[str, float] = {}
    for key, values in columns.items():
        found |= {key: mean(values), f"{key}.ci95": interval(values)}
    return found


def unknowns(result: Sequence[dict[str, Any]], default: Key) -> dict[str, list[float]]:
    """Shares of the known and of the unknown task's inputs that the default router rejects."""
    mine = [r for seed in result for r in seed["unknown"] if (r["router"], r["decision"]) == default[:2]]
    columns = {f"unknown.{what}": [r[what] for r in mine] for what in ("false_rejections", "rejected")}
    return columns if mine else {}


def main() -> None:
    """Run all seeds, or read them from the cache; publish figures, table and plots. ``--only PROBLEM``:
    of one problem, what its answers cost, under a name of its own; two problems can run side by side."""
    parser = argparse.ArgumentParser(prog="benchmarks.routing", description=main.__doc__)
    parser.add_argument("--only", choices=[problem.name for problem in problems()])
    only = parser.parse_args().only
    wanted = [problem for problem in problems() if only in (None, problem.name)]
    torch.set_num_threads(1)
    results: Results = {}
    costs: Results = {}
    with Progress(console=Console(stderr=True)) as progress:
        for problem in wanted:
            for seed in progress.track(problem.seeds, description=problem.name):
                costs.setdefault(problem.name, []).append(answers.run(problem, seed))
                results.setdefault(problem.name, []).append(run(problem, seed))
    spent, published, answered = dict[str, Any](), dict[str, str](), answers.Columns()
    for problem in wanted:
        published[problem.name], spent[problem.name] = answers.answer(problem, costs[problem.name])
        answered |= answers.figures(problem, published[problem.name], spent[problem.name])
    details = {"seeds": results, "answers": costs, "spent": spent, "published": published}
    if only:
        curve(f"routing_cost_{only}", costs, published)
        publish(f"routing_{only}", means(answered), details)
        return
    default, best, without = choose(results, "all"), choose(results, "all", 0), choose(results, "none")
    found = figures(results, default, best, without) | means(answered)
    table("routing", results, default, without)
    draw("routing", results)
    curve("routing_cost", costs, published)
    publish("routing", found, {"default": default, "best": best, "memory0": without, **details})


if __name__ == "__main__":
    main()
