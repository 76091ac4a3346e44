"""The rates of all servers as a picture."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt

from benchmarks.report import PLOTS


def draw(details: dict[str, Any]) -> None:
    """Write ``docs/images/serving.svg``: requests a second, each round a point, medians as bars."""
    shown = {key: value["rounds"] for key, value in details.items() if "rounds" in value and "p50" not in key}
    if not shown:
        return
    plt.rcParams["svg.hashsalt"] = "serving"
    figure, axes = plt.subplots(1, len(shown), figsize=(3 * len(shown), 4), squeeze=False)
    for axis, (key, runs) in zip(axes[0], shown.items(), strict=True):
        for place, (name, taken) in enumerate(runs.items()):
            rates = sorted(run["rate"] for run in taken)
            axis.bar(place, rates[len(rates) // 2], color="tab:blue" if name == "ours" else "lightgray")
            axis.plot([place] * len(rates), rates, "k.", markersize=4)
        axis.set_xticks(range(len(runs)), list(runs))
        axis.set_title(key.rpartition(".")[0])
    axes[0][0].set_ylabel("requests a second")
    figure.tight_layout()
    figure.savefig(PLOTS / "serving.svg", metadata={"Date": None})
    plt.close(figure)
