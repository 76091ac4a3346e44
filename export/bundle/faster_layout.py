"""Which layout is faster here: both are exported and measured."""

from __future__ import annotations

import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any, get_args

import numpy as np
import onnx
import torch

from eideticnet.export.bundle.agreement import Reference, feed
from eideticnet.export.bundle.graph_file import Form, Layout, runner, write_graph
from eideticnet.export.graph.session import Array, Run
from eideticnet.export.graph.tail import TailRule

BATCHES = (1, 8, 32)
CLEARLY = 0.9
"""Share of the nested layout's time, at every batch size, below which another one is worth its loss of
promises."""
_ROUNDS = 51
_SECONDS = 4.0


def write_faster(
    reference: Reference, form: Form, rule: TailRule, path: Path
) -> tuple[Form, onnx.ModelProto | None, dict[str, Any]]:
    """Write the graph in the layout that is faster here: its form, its body and the measurement."""
    layouts: tuple[Layout, ...] = get_args(Layout)
    forms = {layout: replace(form, layout=layout) for layout in layouts}
    with tempfile.TemporaryDirectory(prefix="layouts-", dir=path.parent) as folder:
        paths = {layout: Path(folder) / f"{layout}{path.suffix}" for layout in forms}
        bodies = {name: write_graph(reference, form, rule, paths[name]) for name, form in forms.items()}
        probes = np.concatenate([task.probes.numpy() for task in reference.net.tasks])
        with _one_thread():
            times = measure({name: runner(form.format, paths[name]) for name in forms}, probes)
        taken, reason = decide(times)
        shutil.copyfile(paths[taken], path)
    machine = {"runtime": form.runtime, "threads": 1, "machine": platform.machine(), "seconds": times}
    return forms[taken], bodies[taken], {"taken": taken, "reason": reason, **machine}


def measure(runs: Mapping[Layout, Run], x: Array) -> dict[str, dict[str, float]]:
    """Median seconds of a call by layout and batch size, the layouts taking turns."""
    times: dict[str, dict[str, float]] = {name: {} for name in runs}
    for batch in BATCHES:
        inputs = feed(np.ascontiguousarray(np.resize(x, (batch, *x.shape[1:]))))
        rounds: dict[Layout, list[float]] = {name: [] for name in runs}
        end = time.monotonic() + _SECONDS
        for number in range(_ROUNDS):
            for name, run in runs.items():
                start = time.perf_counter()
                run(inputs)
                rounds[name].append(time.perf_counter() - start)
            if number > 4 and time.monotonic() > end:
                break
        for name, seconds in rounds.items():
            times[name][str(batch)] = median(seconds[2:])  # the first calls allocate
    return times


def decide(times: Mapping[str, Mapping[str, float]]) -> tuple[Layout, str]:
    """The layout to take, and why."""
    shares: dict[Layout, dict[str, float]] = {
        layout: {batch: times[layout][batch] / seconds for batch, seconds in times["nested"].items()}
        for layout in get_args(Layout)
        if layout in times and layout != "nested"
    }
    clear = [layout for layout, of in shares.items() if max(of.values()) < CLEARLY]
    best = min(clear or shares, key=lambda layout: fmean(shares[layout].values()))
    shown = ", ".join(f"{share:.2f} at batch {batch}" for batch, share in shares[best].items())
    why = "clearly faster" if clear else "not clearly faster, and gives up bits across versions"
    return best if clear else "nested", f"the {best} layout takes {shown} of the nested one's time: {why}"


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
