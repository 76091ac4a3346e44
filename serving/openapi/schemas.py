"""JSON Schemas of what a model is asked and what it answers: the contract's, with its bundle's names, shapes
and limits."""

from __future__ import annotations

from typing import Any

from eidetic_runtime.errors import STATUS
from eideticnet.contract.answers import Answer, Answers, Choice, Failure
from eideticnet.contract.bundle import Bundle
from eideticnet.contract.options import RequestOptions
from eideticnet.contract.parts import json_schema

Json = dict[str, Any]


def _closed(schema: Json) -> Json:
    return {**schema, "additionalProperties": False}


def error() -> Json:
    """What is answered where nothing can be answered."""
    schema = json_schema(Failure)
    schema["properties"]["error"] = schema.pop("$defs")["Problem"]
    schema["properties"]["error"]["properties"]["kind"]["enum"] = list(STATUS)
    return schema


def options(bundle: Bundle) -> dict[str, Json]:
    """The options of a request, by name."""
    known: dict[str, Json] = json_schema(RequestOptions)["properties"]
    found = {name: {"description": told["description"], **told["anyOf"][0]} for name, told in known.items()}
    found["task"]["enum"] = [task.name for task in bundle.tasks]
    return found


def instance(bundle: Bundle) -> Json:
    """Nested lists of numbers, one of the contract's shape."""
    spec = bundle.input
    schema: Json = {"type": "integer" if spec.dtype == "int64" else "number"}
    for value, name in ((spec.low, "minimum"), (spec.high, "maximum")):
        if value is not None:
            schema[name] = value
    for size in reversed(spec.shape):
        schema = {"type": "array", "minItems": size, "maxItems": size, "items": schema}
    return schema


def request(bundle: Bundle) -> Json:
    """The JSON object that is sent: ``data`` or ``instances``, and options."""
    one = instance(bundle)
    several = {"type": "array", "minItems": 1, "maxItems": bundle.limits.max_instances, "items": one}
    kinds = (("data", one), ("instances", several))
    return {"oneOf": [_object(bundle, name, schema) for name, schema in kinds]}


def form(bundle: Bundle) -> Json:
    """The parts of a form: the payload, and options as text."""
    told = "Any payload: its type is the part's, or seen by its first bytes."
    return _object(bundle, "data", {"description": told})


def _object(bundle: Bundle, name: str, schema: Json) -> Json:
    properties = {name: schema, **options(bundle)}
    return _closed({"type": "object", "required": [name], "properties": properties})


def answer(bundle: Bundle) -> Json:
    """What is answered to one instance. Three cases: a task and label, or none, and what was asked for."""
    tasks = [task.name for task in bundle.tasks]
    labels = sorted(bundle.classes or {label for task in bundle.tasks for label in task.classes})
    schema, choice = json_schema(Answer), json_schema(Choice)
    del schema["$defs"]
    told = schema["properties"]
    choice["properties"]["label"]["enum"] = labels
    told["task"]["enum"], told["label"]["enum"] = [*tasks, None], [*labels, None]
    told["top"]["items"] = _closed(choice)
    for key, names in (("task_probabilities", tasks), ("label_probabilities", labels)):
        share = told[key]["additionalProperties"]
        told[key] = _closed({**told[key], "properties": dict.fromkeys(names, share)})
    told["task_probabilities"]["required"] = tasks
    return _closed(schema)


def answers(bundle: Bundle, one: Json) -> Json:
    """What is answered to several instances, to each of them ``one``."""
    schema = json_schema(Answers)
    del schema["$defs"]
    most = bundle.limits.max_instances
    schema["properties"]["predictions"] |= {"minItems": 1, "maxItems": most, "items": one}
    return _closed(schema)
