"""The table and the picture of ``make bench-routing``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl

from benchmarks.report import PLOTS, RESULTS, interval

mpl.use("agg")
from matplotlib import pyplot as plt

HEAD = """# Routing

Accuracy with the task found by the network, in percent, mean over the seeds ± 95 % interval.
`make bench-routing` writes this table; choices are made by the validation column. ECE: expected
calibration error of the task's probability on test data, without and with calibration. Data: what
the router learns from; with a memory, that and all of the newest task's. Experts with a memory have the
moments that were kept of every task. A router starts with as many neurons as the trunk has, where it says
"free" with those that no task owns. Cost: the multiply-adds of the whole answer, tasks, router and heads,
as a multiple of the plain net's. The default is the cheapest within 0.1 points of the best validation
accuracy, both as means over the problems. A router that says "pruned" was pruned by its accuracy on the
same validation data, so that column flatters it.
"""


def cell(values: Sequence[float], digits: int = 2) -> str:
    """Mean and interval in percent."""
    return f"{100 * sum(values) / len(values):.{digits}f} ± {100 * interval(values):.{digits}f}"


def table(
    name: str, results: dict[str, list[dict[str, Any]]], default: Sequence[str], without: Sequence[str]
) -> None:
    """Write ``results/NAME.md``."""
    lines = [HEAD]
    for problem, result in results.items():
        lines += [f"## {problem}, {len(result)} seeds", "", *_rows(result, default, without), ""]
        lines += [
            "Four tasks learned, the fifth unknown, the threshold calibrated for 1 % false rejections:",
            "",
        ]
        lines += [*_unknown(result), ""]
    (RESULTS / f"{name}.md").write_text("\n".join(lines))


def _rows(result: list[dict[str, Any]], default: Sequence[str], without: Sequence[str]) -> list[str]:
    lines = [
        "| router | decision | data | validation | test | minus plain | cost | ECE before, after | neurons |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    plain = [seed["plain"]["test"] for seed in result]
    for i, row in enumerate(result[0]["rows"]):
        mine = [seed["rows"][i] for seed in result]
        key = [row["router"], row["decision"], row["data"]]
        mark = " **(default)**" if key == list(default) else " **(K = 0)**" if key == list(without) else ""
        difference = [r["test"] - p for r, p in zip(mine, plain, strict=True)]
        lines.append(
            f"| {row['router']}{mark} | {row['decision']} | {row['data']} "
            f"| {cell([r['validation'] for r in mine])} | {cell([r['test'] for r in mine])} "
            f"| {cell(difference)} | {_mean(mine, 'multiply_adds'):.2f} "
            f"| {_mean(mine, 'ece_before'):.4f}, {_mean(mine, 'ece'):.4f} | {_mean(mine, 'neurons'):.0f} |"
        )
    for name, prefix in (("", ""), (", times moments", "moments_")):
        on_validation, on_test = (
            [seed["plain"][f"{prefix}{part}"] for seed in result] for part in ("validation", "test")
        )
        minus_plain = cell([a - b for a, b in zip(on_test, plain, strict=True)]) if prefix else ""
        lines.append(
            f"| plain net{name}, all classes at once | | all | {cell(on_validation)} | {cell(on_test)} "
            f"| {minus_plain} | {'' if prefix else '1.00'} | | |"
        )
    lines.append(f"| task given (oracle) | | | | {cell([seed['oracle'] for seed in result])} | | | | |")
    return lines


def _mean(rows: list[dict[str, Any]], key: str) -> float:
    return float(sum(r[key] for r in rows) / len(rows))


def _unknown(result: list[dict[str, Any]]) -> list[str]:
    lines = ["| router | decision | known rejected | unknown rejected |", "|---|---|---|---|"]
    for i, row in enumerate(result[0]["unknown"]):
        mine = [seed["unknown"][i] for seed in result]
        shares = " | ".join(cell([r[k] for r in mine], 1) for k in ("false_rejections", "rejected"))
        lines.append(f"| {row['router']} | {row['decision']} | {shares} |")
    return lines


def draw(name: str, results: dict[str, list[dict[str, Any]]]) -> None:
    """Write ``docs/images/NAME.svg``: test accuracy of each row, the plain net's as a line."""
    figure, axes = plt.subplots(1, len(results), figsize=(7 * len(results), 7), squeeze=False)
    for axis, (problem, result) in zip(axes[0], results.items(), strict=True):
        labels, means, widths = [], [], []
        for i, row in enumerate(result[0]["rows"]):
            values = [100 * seed["rows"][i]["test"] for seed in result]
            labels.append(f"{row['router']}, {row['decision']}, {row['data']}")
            means.append(sum(values) / len(values))
            widths.append(interval(values))
        places = range(len(labels))
        axis.errorbar(means, places, xerr=widths, fmt="o", capsize=3)
        axis.axvline(
            100 * sum(s["plain"]["test"] for s in result) / len(result), color="gray", label="plain net"
        )
        axis.set_yticks(places, labels)
        axis.invert_yaxis()
        axis.set_xlabel("test accuracy, task found by the network, %")
        axis.set_title(problem)
        axis.legend(loc="upper left")
    figure.tight_layout()
    figure.savefig(PLOTS / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def curve(name: str, costs: dict[str, list[dict[str, Any]]], published: Mapping[str, str]) -> None:
    """Write ``docs/images/NAME.svg``: routed accuracy on test data against the whole answer's multiply-adds;
    the ``published`` point of each problem is a star."""
    figure, axes = plt.subplots(1, len(costs), figsize=(7 * len(costs), 5), squeeze=False)
    for axis, (problem, seeds) in zip(axes[0], costs.items(), strict=True):
        for i, point in enumerate(seeds[0]["points"]):
            each = [seed["points"][i] for seed in seeds]
            shares, reached = [p["share"] for p in each], [100 * p["test"] for p in each]
            at, height = sum(shares) / len(shares), sum(reached) / len(reached)
            level = point["name"].replace(".", "").isdigit()
            label = f"at most {point['name']}" if level else point["name"]
            mark = "*" if point["name"] == published[problem] else "o"
            label = f"{label}, tasks {point['tasks']:.2f}{', published' * (mark == '*')}"
            axis.errorbar(at, height, yerr=interval(reached), fmt=mark, ms=9, capsize=3, label=label)
        axis.axvline(1.0, color="gray", lw=1)
        axis.set_xscale("log")
        axis.set_xticks(ticks := [0.2, 0.3, 0.6, 1, 2, 4], [f"{t:g}" for t in ticks])
        axis.set_xticks([], minor=True)
        axis.legend(loc="lower right", fontsize="small")
        axis.set_xlabel("multiply-adds of a routed answer, multiples of the plain network's")
        axis.set_ylabel("routed accuracy, %")
        axis.set_title(f"{problem}, {len(seeds)} seeds")
    figure.tight_layout()
    figure.savefig(PLOTS / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)
