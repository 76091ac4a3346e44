"""The served graph: arrays in, arrays out, by the smallest graph that will do and in sizes that suit
the device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from eidetic_runtime.device import ON_CUDA, Settings

log = logging.getLogger("eidetic.graph")

Array = npt.NDArray[Any]
Outputs = dict[str, Array]
FORMATS = ("onnx", "torchscript", "pt2")


class Runs(Protocol):
    """One file in some runtime."""

    device: str
    problem: str

    def run(self, inputs: Mapping[str, Array]) -> Outputs: ...
    def run_bound(self, inputs: Mapping[str, Array]) -> Outputs: ...


class Graph:
    """The whole graph of a bundle and its prefixes, loaded as ``settings`` say. ``device`` is where it runs,
    ``problem`` why that is not CUDA, if it was to be."""

    def __init__(
        self, folder: Path, bundle: Mapping[str, Any], settings: Settings, device_id: int = 0
    ) -> None:
        self.inputs = list(bundle["graph"]["inputs"])
        wanted = "cuda" if settings.device == "auto" else settings.device
        self._whole = _load(folder / bundle["model"], bundle, wanted, device_id, settings.threads)
        self.device, self.problem = self._whole.device, self._whole.problem
        unwished = settings.device == "cuda" and self.problem
        place = f"CUDA device {device_id}" if self.device == "cuda" else "the CPU"
        why = self.problem or f"device is {settings.device}"
        log.log(logging.WARNING if unwished else logging.INFO, "runs on %s: %s", place, why)
        self._prefixes = [
            (p["tasks"], _load(folder / p["file"], bundle, self.device, device_id, settings.threads))
            for p in sorted(bundle.get("prefixes", []), key=lambda prefix: int(prefix["tasks"]))
        ]
        self.buckets = settings.buckets or (ON_CUDA if self.device == "cuda" else ())
        self._most = bundle["limits"].get("max_batch")  # more rows would change each other's answers

    def __call__(self, x: Array, task: Array, threshold: Array, whole: bool = False) -> Outputs:
        """The outputs by name for ``x`` (N, *shape), ``task`` (N,) int64, -1 to route, and ``threshold``
        (N,) float32. If all rows are pinned, only what their tasks need is run, unless the ``whole``
        graph is asked for: then there is no ``task_probs``."""
        graph = self._whole if whole else self._smallest(task)
        run = graph.run_bound if self.buckets else graph.run
        inputs = dict(zip(self.inputs, (x, task, threshold), strict=True))
        if not self.buckets and len(x) <= (self._most or len(x)):
            return graph.run(inputs)
        return run_in_pieces(run, inputs, pieces(len(x), self.buckets, self._most))

    def _smallest(self, task: Array) -> Runs:
        if self._prefixes and task.min() >= 0:
            last = task.max()
            return next((graph for tasks, graph in self._prefixes if last < tasks), self._whole)
        return self._whole


def pieces(rows: int, buckets: Sequence[int], most: int | None) -> Iterator[tuple[int, int, int]]:
    """How to run ``rows`` rows: (first, past the last, rows after padding). The pieces are as
    large as ``most`` and the largest bucket let them be, and each is padded to the smallest bucket."""
    largest = min(buckets[-1] if buckets else rows, most or rows)
    for start in range(0, rows, largest):
        stop = min(rows, start + largest)
        yield start, stop, next((b for b in buckets if b >= stop - start), stop - start)


def run_in_pieces(
    run: Callable[[Mapping[str, Array]], Outputs],
    inputs: Mapping[str, Array],
    parts: Iterator[tuple[int, int, int]],
) -> Outputs:
    """The outputs of ``run`` for all rows, without the padding."""
    found = []
    for start, stop, padded in parts:
        outputs = run({name: pad(array[start:stop], padded) for name, array in inputs.items()})
        found.append({name: value[: stop - start] for name, value in outputs.items()})
    if len(found) == 1:
        return found[0]
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def pad(array: Array, rows: int) -> Array:
    """``array`` followed by copies of its first row: a row that the graph surely takes, and that leaves
    the smallest and largest value of the batch, from which int8 takes its scale, as they are."""
    if len(array) == rows:
        return array
    return np.concatenate([array, np.repeat(array[:1], rows - len(array), axis=0)])


def _load(path: Path, bundle: Mapping[str, Any], device: str, device_id: int, threads: int) -> Runs:
    """The runtime of the bundle's format is imported only here: the other need not be installed."""
    if bundle["format"] not in FORMATS:
        raise ValueError(f"bundle.json: format {bundle['format']!r} is not one of {', '.join(FORMATS)}")
    if bundle["format"] == "onnx":
        from eidetic_runtime.onnx_graph import OnnxGraph

        return OnnxGraph(path, device, device_id, threads)
    from eidetic_runtime.torch_graph import TorchGraph

    return TorchGraph(path, bundle["format"], bundle["graph"], device, device_id, threads)
