"""Requests, no two alike, and what bare ONNX Runtime answers to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import orjson

from benchmarks.serving.client import Load, Target

RAW, JSON = "application/octet-stream", "application/json"
_TIE = 1e-5  # batches of other sizes round differently, which must not choose between two classes
Rows = npt.NDArray[np.float32]


class Bare:
    """The graph in ONNX Runtime, one thread, nothing around it."""

    def __init__(self, graph: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def __call__(self, x: Rows, outputs: Sequence[str] = ("task", "label")) -> list[npt.NDArray[Any]]:
        inputs = {"x": x, "pinned_task": np.full(len(x), -1), "threshold": np.zeros(len(x), np.float32)}
        return list(self.session.run(list(outputs), inputs))


@dataclass(frozen=True)
class Questions:
    """Instances (N, *shape), and the index of task and class that belongs to each."""

    x: Rows
    task: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]

    def requests(self, target: Target, content_type: str) -> list[bytes]:
        """Each instance as an HTTP request."""
        if content_type == RAW:
            bodies = [row.tobytes() for row in self.x.astype("<f4")]
        else:
            bodies = [orjson.dumps({"data": row}, option=orjson.OPT_SERIALIZE_NUMPY) for row in self.x]
        return [target.request(body, content_type) for body in bodies]

    def wrong(self, load: Load, names: tuple[list[str], list[list[str]]] | None) -> int:
        """How many requests got no answer, or another than ONNX Runtime's. ``names`` of tasks and
        their classes, where a server answers with names."""
        found = 0
        for i, body in enumerate(load.bodies):
            answer = orjson.loads(body) if load.status[i] == 200 else {}
            k = i % len(self.x)
            task, label = int(self.task[k]), int(self.label[k])
            expected = (names[0][task], names[1][task][label]) if names else (task, label)
            found += (answer.get("task"), answer.get("label")) != expected
        return found


def questions(bare: Bare, shape: tuple[int, ...], count: int, seed: int) -> Questions:
    """``count`` random instances whose answers no rounding can change."""
    x = np.random.default_rng(seed).random((count + count // 4 + 8, *shape), np.float32)
    parts = [
        bare(x[i : i + 32], ("task", "label", "task_probs", "label_probs")) for i in range(0, len(x), 32)
    ]
    task, label, task_probs, label_probs = (np.concatenate(part) for part in zip(*parts, strict=True))
    clear = (_margin(task_probs) > _TIE) & (_margin(label_probs) > _TIE)
    if clear.sum() < count:
        raise ValueError(f"only {clear.sum()} of {len(x)} random instances have a clear answer")
    return Questions(x[clear][:count], task[clear][:count], label[clear][:count])


def _margin(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    best = np.sort(probabilities, axis=1)
    return np.asarray(best[:, -1] - best[:, -2])
