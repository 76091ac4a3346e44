"""JSON Schemas of what a model is asked and what it answers, made from its bundle."""

from __future__ import annotations

from typing import Any

from eidetic_runtime.errors import STATUS

Json = dict[str, Any]

ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["kind", "field", "message"],
            "additionalProperties": False,
            "properties": {
                "kind": {
                    "description": "What to do about it, for programs.",
                    "enum": list(STATUS),
                },
                "field": {"description": "Where the request is wrong.", "type": "string"},
                "message": {"description": "What is wrong and what is expected.", "type": "string"},
            },
        }
    },
}

_SHARE: Json = {"type": "number", "minimum": 0, "maximum": 1.000001}


def options(bundle: Json) -> dict[str, Json]:
    """The options of a request, by name."""
    return {
        "task": {
            "description": "Ask this task instead of finding the task.",
            "type": "string",
            "enum": [task["name"] for task in bundle["tasks"]],
        },
        "threshold": {
            "description": "Answer unknown where the router is less sure of the task than this.",
            "type": "number",
            "minimum": 0,
            "maximum": 1,
        },
        "top_k": {
            "description": "How many of the likeliest labels of the task answered to list.",
            "type": "integer",
            "minimum": 1,
        },
        "probabilities": {
            "description": "Tell the probability of every task and of every label of the task answered.",
            "type": "boolean",
        },
        "deadline_ms": {
            "description": "Unix time in milliseconds after which nobody waits any more.",
            "type": "number",
            "minimum": 0,
            "exclusiveMaximum": 253_402_300_800_000,
        },
    }


def instance(bundle: Json) -> Json:
    """Nested lists of numbers, one of the contract's shape."""
    spec = bundle["input"]
    schema: Json = {"type": "integer" if spec["dtype"] == "int64" else "number"}
    for key, name in (("low", "minimum"), ("high", "maximum")):
        if spec.get(key) is not None:
            schema[name] = spec[key]
    for size in reversed(spec["shape"]):
        schema = {"type": "array", "minItems": size, "maxItems": size, "items": schema}
    return schema


def request(bundle: Json) -> Json:
    """The JSON object that is sent: ``data`` or ``instances``, and options."""
    one = instance(bundle)
    several = {"type": "array", "minItems": 1, "maxItems": bundle["limits"]["max_instances"], "items": one}
    kinds = (("data", one), ("instances", several))
    return {
        "oneOf": [
            {
                "type": "object",
                "required": [name],
                "additionalProperties": False,
                "properties": {name: schema, **options(bundle)},
            }
            for name, schema in kinds
        ]
    }


def form(bundle: Json) -> Json:
    """The parts of a form: the payload, and options as text."""
    return {
        "type": "object",
        "required": ["data"],
        "additionalProperties": False,
        "properties": {
            "data": {"description": "Any payload: its type is the part's, or seen by its first bytes."},
            **options(bundle),
        },
    }


def answer(bundle: Json) -> Json:
    """What is answered to one instance. Three cases: a task and label, or none, and what was asked for."""
    tasks = [task["name"] for task in bundle["tasks"]]
    labels = sorted({label for task in bundle["tasks"] for label in task["classes"]})
    known = {
        "task": {"description": "The task answered, null for none of mine.", "enum": [*tasks, None]},
        "label": {"description": "The class, null for none of mine.", "enum": [*labels, None]},
        "unknown": {"description": "Whether no task claims the input.", "type": "boolean"},
        "pinned": {"description": "Whether the request named the task.", "type": "boolean"},
        "task_probability": {
            "description": "The router's, of that task or its best guess; null where it was not asked.",
            "anyOf": [_SHARE, {"type": "null"}],
        },
        "label_probability": {
            "description": "The task's own, of that label; null for none of mine.",
            "anyOf": [_SHARE, {"type": "null"}],
        },
        "model_version": {"description": "The version that answered.", "type": "string"},
    }
    return {
        "type": "object",
        "required": list(known),
        "additionalProperties": False,
        "properties": {
            **known,
            "top": {
                "description": "The likeliest labels of the task answered, the first one is the answer.",
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["label", "probability"],
                    "additionalProperties": False,
                    "properties": {"label": {"enum": labels}, "probability": _SHARE},
                },
            },
            "task_probabilities": {
                "description": "The router's, of every task.",
                "type": "object",
                "required": tasks,
                "additionalProperties": False,
                "properties": dict.fromkeys(tasks, _SHARE),
            },
            "label_probabilities": {
                "description": "Those of all labels of the task answered.",
                "type": "object",
                "additionalProperties": False,
                "properties": dict.fromkeys(labels, _SHARE),
            },
        },
    }
