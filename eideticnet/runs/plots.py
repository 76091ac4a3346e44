"""The pictures of a report, as SVG that stands in an HTML page: equal data give equal bytes.

Drawn narrow, so that they are legible on a phone as they are; a wider page shows several side by side.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from eideticnet.learned import ROUTER
from eideticnet.runs.history import Curve, History, RoutedAnswers

WIDTH = 380  # points, like all lengths here
PANEL = 300  # one of many small pictures
INK, FAINT, GRID = "#333333", "#767676", "#dddddd"
OWN = {ROUTER: "#4d4d4d", "free": "#ececec"}
# Okabe and Ito's colours for colour-blind readers, without the yellow that fades on white.
FEW = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "axes.edgecolor": GRID,
    "axes.labelcolor": FAINT,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
LOOK: Any = ["default", STYLE]  # whatever the user's own matplotlibrc says


def palette(tasks: Sequence[str]) -> dict[str, str]:
    """A colour for each task, for the router and for what is free; more tasks than there are easily
    told colours get steps from dark to light, in the order of learning."""
    many = mpl.colormaps["viridis"]
    colours = [
        FEW[i] if len(tasks) <= len(FEW) else mpl.colors.to_hex(many(0.9 * i / (len(tasks) - 1)))
        for i in range(len(tasks))
    ]
    return {**dict(zip(tasks, colours, strict=True)), **OWN}


def ink_on(colour: str) -> str:
    """Black or white, whichever is better read on ``colour`` (WCAG 2 relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in mpl.colors.to_rgb(colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > 0.179 else "#ffffff"


def printable(text: str) -> str:
    """``text`` without characters that a page can't hold or that disturb its order."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def shorten(text: str, length: int) -> str:
    """Printable ``text``, with its middle left out if it is longer than ``length``."""
    text = printable(text)
    if len(text) <= length:
        return text
    head = (length - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def percent(fraction: float) -> str:
    """One decimal; 100.0 only if nothing is wrong."""
    shown = f"{100 * fraction:.1f}"
    return "99.9" if shown == "100.0" and fraction < 1 else shown


def lanes(history: History, colours: Mapping[str, str]) -> str:
    """The accuracy of every task after each task learned: one lane a task, in the order of learning."""
    moments, tasks = history.moments, list(dict.fromkeys(t for m in history.moments for t in m.oracle))
    every = [a for m in moments for a in (*m.oracle.values(), *m.routed.values())]
    low = min(0.9, int(10 * min(every)) / 10)
    height = 44 * len(tasks) + 44
    with style.context(LOOK):
        figure, axes = figure_of(height, left=32, right=42, bottom=40, top=4)
        for row, task in enumerate(tasks):
            _lane(axes, row, task, history, low, colours[task])
        axes.set_xlim(-0.4, len(moments) - 0.6)
        axes.set_ylim(len(tasks), 0)
        names = [t.learned for t in moments]
        labels = ["R" if n == ROUTER else str(tasks.index(n) + 1) for n in names]
        axes.set_xticks(range(0, len(moments), -(-len(moments) // 30)))
        axes.tick_params(axis="x", labelsize=10 if len(moments) < 15 else 8)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: labels[round(x)]))
        axes.set_xlabel("task learned (number; R = router)")
        axes.set_yticks([])
        axes.spines[["left", "bottom"]].set_visible(False)
        return svg_of(figure, "lanes")


def _lane(axes: Axes, row: int, task: str, history: History, low: float, colour: str) -> None:
    top, bottom = row + 0.46, row + 0.9

    def y(accuracy: float) -> float:
        return bottom - (accuracy - low) / (1 - low) * (bottom - top)

    oracle = [(i, y(m.oracle[task])) for i, m in enumerate(history.moments) if task in m.oracle]
    routed = [(i, y(m.routed[task])) for i, m in enumerate(history.moments) if task in m.routed]
    last = history.moments[-1]
    right = len(history.moments) - 0.5
    axes.axhspan(top, bottom, color="#f6f6f6", zorder=0)
    chip = {"boxstyle": "round,pad=0.15", "facecolor": colour, "edgecolor": "none"}
    axes.text(
        -0.5, row + 0.17, str(row + 1), color=ink_on(colour), ha="right", va="center", fontsize=8, bbox=chip
    )
    name: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 10, "weight": "bold"}
    axes.annotate(shorten(task, 44), (-0.4, row + 0.19), (1, 0), color=INK, **name)
    axes.plot(*zip(*oracle, strict=True), "-o", color=colour, lw=2.2, ms=4.5, clip_on=False)
    if routed:
        axes.plot(*zip(*routed, strict=True), ":D", color=INK, lw=1, ms=4.5, mfc="white", clip_on=False)
    for value, at in ((1.0, top), (low, bottom)):
        axes.text(-0.5, at, f"{100 * value:.0f} %", ha="right", va="center", fontsize=7.5, color=FAINT)
    if task in last.oracle:
        axes.text(right, top, percent(last.oracle[task]), color=INK, va="center", fontsize=9)
    if task in last.routed:
        axes.text(
            right, bottom - 0.06, f"◇{percent(last.routed[task])}", color=FAINT, va="center", fontsize=9
        )


def capacity(table: Mapping[str, Mapping[str, int]], colours: Mapping[str, str]) -> str:
    """Which share of each layer is whose: one bar a layer."""
    pitch, size = (26, 9.5) if len(table) <= 16 else (14, 7.5)
    names = [shorten(name, 20) for name in table]
    left = 14 + 0.62 * size * max(map(len, names))
    with style.context(LOOK):
        figure, axes = figure_of(pitch * len(table) + 50, left=left, right=46, bottom=38, top=4)
        for row, layer in enumerate(table.values()):
            _bar(axes, row, layer, colours, size, (WIDTH - left - 46) / 100)
        axes.set_yticks(range(len(table)), names, fontsize=size)
        axes.set_ylim(len(table) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of the neurons (%)")
        axes.spines[["left", "bottom"]].set_visible(False)
        return svg_of(figure, "capacity")


def _bar(
    axes: Axes, row: int, layer: Mapping[str, int], colours: Mapping[str, str], size: float, unit: float
) -> None:
    """One layer's bar, and beneath it a thin one of the router's neurons, which come on top of the layer's;
    ``unit``: points for each percent."""
    start, total = 0.0, layer["total"]
    axes.barh(
        row + 0.42,
        100 * layer.get(ROUTER, 0) / total,
        0.1,
        color=colours[ROUTER],
        hatch="////",
        edgecolor="white",
        lw=0,
    )
    for owner, count in layer.items():
        if owner in ("total", ROUTER) or not count:
            continue
        share, colour = 100 * count / total, colours[owner]
        axes.barh(row, share, 0.7, start, color=colour, edgecolor="white", lw=0.6)
        fits = share * unit > 0.66 * size * len(str(count)) + 4
        if fits and (owner == "free" or size > 8):
            middle = start + share / 2
            axes.text(middle, row, str(count), ha="center", va="center", fontsize=size, color=ink_on(colour))
        start += share
    axes.text(101.5, row, str(total), va="center", fontsize=size, color=FAINT)


def pruning(curve: Curve, name: str, colour: str) -> str:
    """Accuracy against neurons left, in all layers together; empty if there was nothing to prune."""
    steps = sorted((sum(s.neurons.values()), s.accuracy) for s in curve.steps)
    sizes = [n for n, _ in steps]
    if not max(sizes):
        return ""
    chosen, target = sum(curve.chosen.values()), 100 * curve.target
    with style.context(LOOK):
        figure, axes = figure_of(200, left=38, right=8, bottom=38, top=22, width=PANEL)
        axes.plot(sizes, [100 * a for _, a in steps], "-", color=colour, lw=2)
        good = [(n, 100 * a) for n, a in steps if a >= curve.target]
        bad = [(n, 100 * a) for n, a in steps if a < curve.target]
        axes.plot([n for n, _ in good], [a for _, a in good], "o", color=colour, ms=4.5)
        axes.plot([n for n, _ in bad], [a for _, a in bad], "x", color=colour, ms=7, mew=2)
        axes.axhline(target, color=INK, lw=1, ls=(0, (4, 3)))
        _size_axis(axes, sizes)
        _accuracy_axis(axes, min(target, *(100 * a for _, a in steps)))
        _mark_chosen(axes, chosen, dict(steps).get(chosen), target)
        return svg_of(figure, name)


def _size_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """A logarithmic axis of neurons, from many to few as pruning goes, with room for a label."""
    most, least = max(sizes), max(min(sizes), 1)
    margin = max(most / least, 2)
    axes.set_xscale("symlog" if min(sizes) == 0 else "log")
    axes.set_xlim(most * margin**0.04, least / margin**0.22 if min(sizes) else -0.5)
    heads = (1, 2, 5) if margin < 100 else (1, 3) if margin < 5000 else (1,)
    ticks = [head * 10**e for e in range(10) for head in heads]
    axes.xaxis.set_major_locator(FixedLocator([t for t in ticks if least / 1.1 <= t <= 1.1 * most]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:.0f}"))
    axes.set_xlabel("neurons left, all layers (logarithmic)")


def _accuracy_axis(axes: Axes, low: float) -> None:
    margin = max(100 - low, 0.5) * 0.12
    axes.set_ylim(low - 2 * margin, 100 + margin)
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low - margin, 100)
    axes.yaxis.set_major_locator(FixedLocator([t for t in ticks if low - 2 * margin <= t <= 100]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda a, _: f"{a:.6g}"))
    axes.text(0, 1.04, "training accuracy (%)", transform=axes.transAxes, color=FAINT)
    axes.grid(axis="y", color=GRID, lw=0.6)


def _mark_chosen(axes: Axes, chosen: int, reached: float | None, target: float) -> None:
    font: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9.5}
    start = axes.get_xlim()[0]
    axes.annotate(f"least allowed: {target:.1f} %", (start, target), (3, -11), color=FAINT, **font)
    if reached is not None:
        place = (chosen, 100 * reached)
        axes.plot(*place, "o", ms=12, mfc="none", mec=INK, mew=1.8, clip_on=False)
        axes.annotate(f"{chosen} kept", place, (9, 4), color=INK, weight="bold", **font)


def reliability(routing: RoutedAnswers) -> str:
    """How often the router is right, against how sure it says it is."""
    filled = [(i, b) for i, b in enumerate(routing.bins) if b.count]
    width = 100 / len(routing.bins)
    with style.context(LOOK):
        figure, upper = figure_of(330, left=44, right=12, bottom=112, top=10)
        lower = figure.add_axes((44 / WIDTH, 38 / 330, (WIDTH - 56) / WIDTH, 56 / 330))
        most = max(b.count for _, b in filled)
        upper.plot([0, 100], [0, 100], color=INK, lw=1, ls=(0, (4, 3)), zorder=3)
        for i, b in filled:
            place, alpha = (i + 0.5) * width, 1 if b.count >= 10 else 0.4
            upper.bar(place, 100 * b.right, 0.92 * width, color=FEW[0], alpha=alpha)
            upper.plot(100 * b.confidence, 100 * b.right, "o", color=FEW[5], mec="white", ms=7, zorder=4)
            lower.bar(place, b.count, 0.92 * width, color="#999999")
            lower.annotate(
                str(b.count), (place, b.count), (0, 2), textcoords="offset points", ha="center", fontsize=8
            )
        hint: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "color": FAINT}
        upper.annotate("as sure as right", (36, 36), (-5, 4), **hint)
        error = f"expected calibration error {routing.calibration_error:.3f}"
        upper.text(2, 97, error, weight="bold", color=INK, va="top")
        for axes, label, high in ((upper, "routed rightly (%)", 104), (lower, "inputs", 1.35 * most)):
            axes.set(xlim=(0, 100), ylim=(0, high), ylabel=label)
        upper.set_xticklabels([])
        upper.grid(color=GRID, lw=0.6)
        upper.set_axisbelow(True)
        lower.set_yticks([])
        lower.set_xlabel("router's confidence (%)")
        return svg_of(figure, "reliability")


def figure_of(
    height: float, *, left: float, right: float, bottom: float, top: float, width: float = WIDTH
) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, everything in points."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    figure.patch.set_alpha(0)
    place = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    axes = figure.add_axes(place)
    axes.patch.set_alpha(0)
    return figure, axes


def svg_of(figure: Figure, name: str) -> str:
    """The figure as an ``svg`` element whose ids no other figure of the page has."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        # The reader's browser chooses the font: what matplotlib's own lacks is not missing there.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text))
    for marker in ('id="', 'href="#', "url(#"):
        text = text.replace(marker, f"{marker}{name}-")
    return text
