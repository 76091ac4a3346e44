"""How well a graph that promises no bits still agrees with the network that it came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from eideticnet import EideticNetwork
from export.graph import feed
from export.real_inputs import Real
from export.session import Array, Run

PROBES = "the bundle's probes, which are synthetic unless the network keeps real ones"
_BATCH = 256


def agreement(net: EideticNetwork, run: Run, real: Real | None, batch: int = _BATCH) -> dict[str, Any]:
    """Compare the eager network in float32 with its exported graph, on real inputs or else the probes.

    ``same_task`` and ``same_label`` are shares of all rows; a label is the same if the task is too.
    ``accuracy`` of both (task and, where known, label are right) where the tasks are known. Largest
    differences: of ``task_probs``, and of ``logits`` with each row pinned to the network's own choice."""
    x = np.concatenate([t.probes.numpy() for t in net.tasks]) if real is None else real.x
    expected = _eager(net, x)
    routed = _run(run, x, None, batch)
    pinned = _run(run, x, expected["task"], batch)
    same_task = routed["task"] == expected["task"]
    same_label = same_task & (routed["label"] == expected["label"])
    report: dict[str, Any] = {
        "inputs": PROBES if real is None else real.source,
        "rows": len(x),
        "batch": batch,
        "same_task": float(same_task.mean()),
        "same_label": float(same_label.mean()),
        "max_difference": {
            "task_probs": float(np.abs(routed["task_probs"] - expected["task_probs"]).max()),
            "logits": float(np.abs(pinned["logits"] - expected["logits"]).max()),
        },
    }
    if real is not None and real.task is not None:
        report["accuracy"] = {"network": _right(real, expected), "graph": _right(real, routed)}
    return report


def _eager(net: EideticNetwork, x: Array) -> dict[str, Array]:
    parts = []
    with torch.no_grad():
        for rows in torch.from_numpy(x).split(_BATCH):
            answer = net(rows.to(net.device), threshold=torch.zeros(len(rows), device=net.device))
            parts.append({name: value.cpu().numpy() for name, value in answer._asdict().items()})
    return _joined(parts)


def _run(run: Run, x: Array, task: Array | None, batch: int) -> dict[str, Array]:
    """``batch`` rows at a time, as they are served."""
    starts = range(0, len(x), batch)
    pins = [None if task is None else task[i : i + batch] for i in starts]
    return _joined([run(feed(x[i : i + batch], pin)) for i, pin in zip(starts, pins, strict=True)])


def _joined(parts: Sequence[dict[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _right(real: Real, found: dict[str, Array]) -> float:
    right = found["task"] == real.task
    if real.label is not None:
        right = right & (found["label"] == real.label)
    return float(right.mean())
