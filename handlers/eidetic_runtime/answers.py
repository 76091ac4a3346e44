"""From the graph's outputs to the JSON of the answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from eidetic_runtime import open_inference
from eidetic_runtime.errors import BadRequest
from eidetic_runtime.requests import Request

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

Outputs = dict[str, npt.NDArray[Any]]


def answers(
    requests: Sequence[Request], outputs: Outputs, bundle: dict[str, Any]
) -> Iterator[dict[str, Any] | BadRequest]:
    """The answer to each of ``requests``, whose rows ``outputs`` holds one behind the other; an error to one
    whose numbers are so large that what decides is no number any more.

    A pinned request asks nothing of the router: there may be no ``task_probs`` then, and there is never a
    ``task_probability``, whatever else is in the batch, unless ``probabilities`` asks for it."""
    tasks, labels = outputs["task"].tolist(), outputs["label"].tolist()
    sure = _sure(outputs)
    likely = outputs["label_probs"].max(1).tolist()
    astray = _no_numbers(outputs.get("task_probs"), len(tasks))
    start = 0
    for request in requests:
        mine = range(start, start + len(request.x))
        start = mine.stop
        routed = request.task < 0 or request.probabilities
        lost = next((i for i in mine if likely[i] != likely[i] or (routed and astray[i])), None)
        if lost is not None:
            yield _overflow(request, lost - mine.start)
            continue
        rows = [
            _row(tasks[i], labels[i], sure[i] if routed else None, likely[i], request, bundle) for i in mine
        ]
        if request.top_k or request.probabilities:
            for i, row in zip(mine, rows, strict=True):
                row |= _told(tasks[i], i, outputs, request, bundle)
        if request.reply_to is not None:
            indices = [(tasks[i], labels[i]) for i in mine]
            yield open_inference.response(rows, indices, bundle, request.reply_to)
        else:
            yield {"predictions": rows} if request.many else rows[0]


def _no_numbers(probabilities: npt.NDArray[Any] | None, rows: int) -> list[bool]:
    """Which rows hold NaN; none where there are no ``probabilities``."""
    if probabilities is None:
        return [False] * rows
    found: list[bool] = np.isnan(probabilities.max(1)).tolist()
    return found


def _overflow(request: Request, row: int) -> BadRequest:
    field = f"{request.field}[{row}]" if request.many else request.field
    message = "holds numbers too large for the network to answer; send smaller ones"
    return BadRequest(field, message, reply_to=request.reply_to)


def _sure(outputs: Outputs) -> list[float | None]:
    """The router's probability for each task answered, or for its best guess."""
    task, probabilities = outputs["task"], outputs.get("task_probs")
    if probabilities is None:
        return [None] * len(task)
    best = task if task.min() >= 0 else np.where(task < 0, probabilities.argmax(1), task)
    found: list[float | None] = probabilities[np.arange(len(task)), best].tolist()
    return found


def _row(
    task: int, label: int, sure: float | None, likely: float, request: Request, bundle: dict[str, Any]
) -> dict[str, Any]:
    known = bundle["tasks"][task] if task >= 0 else None
    return {
        "task": known["name"] if known else None,
        "label": _classes(task, bundle)[label] if known else None,
        "unknown": known is None,
        "pinned": request.task >= 0,
        "task_probability": sure,
        "label_probability": likely if known else None,
        "model_version": bundle["model_version"],
    }


def _classes(task: int, bundle: dict[str, Any]) -> Sequence[str]:
    """The names that labels are indices into: the task's own, or those that all tasks share."""
    found: Sequence[str] = bundle.get("classes") or bundle["tasks"][task]["classes"]
    return found


def _told(task: int, i: int, outputs: Outputs, request: Request, bundle: dict[str, Any]) -> dict[str, Any]:
    """What ``top_k`` and ``probabilities`` ask for; of classes nothing where the task is unknown."""
    classes = _classes(task, bundle) if task >= 0 else []
    probabilities = outputs["label_probs"][i, : len(classes)]
    told: dict[str, Any] = {}
    if request.top_k:
        order = np.argsort(-probabilities, kind="stable")[: request.top_k].tolist()
        told["top"] = [{"label": classes[k], "probability": float(probabilities[k])} for k in order]
    if request.probabilities:
        names = [known["name"] for known in bundle["tasks"]]
        told["task_probabilities"] = dict(zip(names, outputs["task_probs"][i].tolist(), strict=True))
        told["label_probabilities"] = dict(zip(classes, probabilities.tolist(), strict=True))
    return told


def refusal(error: BadRequest, bundle: dict[str, Any], tensors: bool = False) -> dict[str, Any]:
    """The error in the form that its sender reads: as ``tensors`` where it reads nothing else, whatever could
    be read of the request."""
    if error.reply_to is None and not tensors:
        return error.to_json()
    return open_inference.refusal(error, bundle)


def encode(value: dict[str, Any]) -> bytes:
    """UTF-8 JSON."""
    return orjson.dumps(value) if orjson else json.dumps(value, ensure_ascii=False).encode()
