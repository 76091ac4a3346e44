"""``python -m benchmarks.capacity``: cores and nodes for so many requests, written into ``docs/capacity.md``.

Reckoned from what ``make bench-serving`` and ``make bench-ray`` measured.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS

PAGE = Path(__file__).parents[1] / "docs/capacity.md"
BUSY = 0.6
"""Of a core's time, so that what comes at once is not waited for."""
CORES = 4
"""Of a node, one of which may be gone."""
RATES = (1000, 10_000, 100_000)
_OTHERS = ("mosec_us", "client_us")
_TORCHSERVE = ("python_us", "java_us")
_BEGIN, _END = "<!-- figures: serving.json, ray.json -->\n", "\nA request"


def costs() -> Iterator[tuple[str, float, float]]:
    """Each engine and payload, the microseconds of processor time that a request takes of all of the server's
    programs at 32 connections, and those of them that are the graph's."""
    serving = _details("serving")
    graph = 1e6 / serving["raw.c32.vs_mosec"]["medians"]["bare"]["rate"]
    for payload, key in (("raw float32", "raw.c32.vs_mosec"), ("JSON", "json.c32.vs_mosec")):
        ours = serving[key]["medians"]["ours"]
        yield f"TorchServe, {payload}", sum(ours.get(name, 0.0) for name in _TORCHSERVE), graph
    ray = _details("ray")
    if "c32" not in ray:
        return
    graph = 1e6 / ray["c32"]["medians"]["bare"]["rate"]
    for payload, key in (("raw float32", "c32"), ("JSON", "json.c32")):
        if key in ray:
            yield f"Ray Serve, {payload}", _of_ray(ray[key]["medians"]["ray"]), graph


def _of_ray(medians: Mapping[str, float]) -> float:
    """That of the replica, the proxy before it, and all that Ray does beside; Java is the other engine's."""
    spent = (value for name, value in medians.items() if name.endswith("_us"))
    return sum(spent) - sum(medians.get(name, 0.0) for name in (*_OTHERS, "java_us"))


def _details(bench: str) -> dict[str, Any]:
    path = RESULTS / f"{bench}.json"
    return dict(json.loads(path.read_text())["details"]) if path.exists() else {}


def table() -> str:
    """Cores that are busy for ``BUSY`` of their time, and nodes of ``CORES``, by requests a second."""
    heads = [f"{rate:,}/s: cores, nodes" for rate in RATES]
    lines = [
        f"| | microseconds | of them the graph | {' | '.join(heads)} |",
        "|---|" + "---|" * (2 + len(heads)),
    ]
    for name, cost, graph in costs():
        cores = [rate * cost / 1e6 / BUSY for rate in RATES]
        cells = [f"{count:.1f}, {math.ceil(count / CORES) + 1}" for count in cores]
        lines.append(f"| {name} | {cost:.0f} | {graph:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The page, whose table is what the results give."""
    pattern = re.compile(f"({re.escape(_BEGIN)}).*?({re.escape(_END)})", re.DOTALL)
    assert pattern.search(text)
    return pattern.sub(lambda found: found[1] + table() + found[2], text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
