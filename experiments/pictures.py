"""The pictures of an experiment: what each task reached after each that was learned, and other methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from matplotlib import style

from eideticnet.experiments.results import Result
from eideticnet.learned import ROUTER
from eideticnet.runs import plots
from eideticnet.runs.history import History, Moment


def lines(result: Result) -> str:
    """Of the first setting and seed, as SVG: what the run remembers of itself."""
    run = next(iter(next(iter(result.runs.values())).values()))
    moments = [
        Moment(
            learned=learned,
            at="",
            made_with={},
            oracle={name: line[i] for name, line in run.forgetting.lines.items() if line[i] is not None},
        )
        for i, learned in enumerate(run.forgetting.learned)
    ]
    moments[-1] = moments[-1].model_copy(update={"routed": run.routed.tasks})
    colours = plots.palette(list(run.forgetting.lines))
    return plots.lanes(History(moments=moments), colours) + "\n"


Curve = Sequence[float]
"""After each task, the mean accuracy of those learned so far, the task given."""


def curves(result: Result) -> dict[str, Curve]:
    """Of the network's first setting and of every other method that was run, means over the seeds."""
    runs = next(iter(result.runs.values()), {}).values()
    found = {"EideticNet": [_of_lines(run.forgetting.learned, run.forgetting.lines) for run in runs]}
    for method, seeds in result.baselines.items():
        rows = [told["given"].get("matrix", []) for told in seeds.values()]
        found[method] = [[_mean(row) for row in matrix] for matrix in rows if len(matrix) > 1]
    return {name: [mean(at) for at in zip(*of, strict=True)] for name, of in found.items() if of}


def _of_lines(learned: Sequence[str], lines: Mapping[str, Sequence[float | None]]) -> Curve:
    places = [i for i, name in enumerate(learned) if name != ROUTER]
    return [_mean([line[i] for line in lines.values()]) for i in places]


def _mean(row: Sequence[float | None]) -> float:
    return mean(share for share in row if share is not None)


def compared(result: Result, names: Mapping[str, str]) -> str:
    """The curves as SVG; ``names``: what methods are called."""
    height, found = 230.0, curves(result)
    with style.context(plots.LOOK):
        figure, axes = plots.figure_of(height, left=34, right=110, bottom=38, top=22)
        for place, (name, curve) in enumerate(found.items()):
            tasks = range(1, len(curve) + 1)
            look: dict[str, Any] = {"color": plots.FEW[place % len(plots.FEW)], "lw": 1.6, "ms": 4}
            called = names.get(name, name).partition(":")[0]
            axes.plot(tasks, [100 * share for share in curve], "-o", **look, label=called, clip_on=False)
        beside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5)}
        axes.legend(**beside, frameon=False, fontsize=9)
        axes.set_xticks(range(1, max(map(len, found.values())) + 1))
        axes.set_xlabel("tasks learned")
        axes.text(0, 1.04, "accuracy of those, task given (%)", transform=axes.transAxes, color=plots.FAINT)
        axes.grid(axis="y", color=plots.GRID, lw=0.6)
        return plots.svg_of(figure, "compared") + "\n"
