"""Rate, latency and failures over time, as one SVG; the deploy is marked."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eideticnet.loadtest.results import Hotload, Samples

_STYLE = {"svg.hashsalt": "eideticnet", "svg.fonttype": "none", "axes.spines.top": False}


def draw(path: Path, samples: Samples, hotload: Hotload | None) -> None:
    """Requests a second, p50 and p99 of each second's answers, and failures, by second of the load."""
    began = float(samples.started.min())
    ended = samples.started - began + samples.ms / 1000
    second = ended.astype(int)
    seconds = np.arange(second.max() + 1)
    good = ~samples.failed
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(8, 6), layout="constrained")
        rate, latency, failures = figure.subplots(3, 1, sharex=True, height_ratios=[2, 3, 1])
        for version in sorted({str(v) for v in samples.version if v}):
            mask = samples.version == version
            rate.step(seconds, _count(second[mask], seconds), where="mid", label=f"version {version}")
        rate.set_ylabel("answers / s")
        _legend(rate)
        for percent in (50, 99):
            values = [_percentile(samples.ms[good & (second == s)], percent) for s in seconds]
            latency.plot(seconds, values, marker=".", label=f"p{percent}")
        latency.set_yscale("log")
        latency.set_ylabel("latency / ms")
        _legend(latency)
        failures.bar(seconds, _count(second[samples.failed], seconds), color="firebrick")
        failures.set_ylabel("failures / s")
        failures.set_xlabel("second of the load")
        if hotload:
            for axes in (rate, latency, failures):
                axes.axvspan(hotload.began - began, hotload.ended - began, color="0.9", zorder=0)
                axes.axvline(hotload.began - began, color="0.4", linestyle="--", linewidth=1)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _count(found: npt.NDArray[np.int_], seconds: npt.NDArray[np.int_]) -> npt.NDArray[np.int_]:
    return np.bincount(found, minlength=len(seconds))


def _percentile(ms: npt.NDArray[np.float64], percent: int) -> float:
    return float(np.percentile(ms, percent)) if len(ms) else float("nan")


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize="small")
