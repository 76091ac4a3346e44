"""The picture of an experiment: the accuracy of every task after each that was learned, and its routing."""

from __future__ import annotations

from eideticnet.experiments.results import Result
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
