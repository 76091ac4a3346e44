"""From the graph's outputs to the JSON of one answer."""

from __future__ import annotations

import json
from typing import Any

import numpy.typing as npt
from eidetic_request import Request

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

Outputs = dict[str, npt.NDArray[Any]]


def answers(request: Request, outputs: Outputs, bundle: dict[str, Any]) -> dict[str, Any]:
    """The answer to ``request`` whose rows ``outputs`` holds."""
    rows = [_row(outputs, i, request.task, bundle) for i in range(len(request.x))]
    return {"predictions": rows} if request.many else rows[0]


def _row(outputs: Outputs, i: int, pinned: int, bundle: dict[str, Any]) -> dict[str, Any]:
    """``task_probability`` is the router's for the task answered, or for its best guess."""
    task, label = int(outputs["task"][i]), int(outputs["label"][i])
    routed = int(outputs["task_probs"][i].argmax()) if task < 0 else task
    known = bundle["tasks"][task] if task >= 0 else None
    return {
        "task": known["name"] if known else None,
        "label": known["classes"][label] if known else None,
        "unknown": known is None,
        "pinned": pinned >= 0,
        "task_probability": float(outputs["task_probs"][i, routed]),
        "label_probability": float(outputs["label_probs"][i].max()) if known else None,
        "model_version": bundle["model_version"],
    }


def encode(value: dict[str, Any]) -> bytes:
    """UTF-8 JSON, as TorchServe's own encoder would be slow to make."""
    return orjson.dumps(value) if orjson else json.dumps(value, ensure_ascii=False).encode()
