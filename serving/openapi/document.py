"""An OpenAPI 3.1 document of the requests and answers of the models that are served.

Made from their bundles alone: shapes, ranges, names, limits and options, with an example of every request
that can be written down in JSON. For programs that show or ask a model each operation also has ``x-eidetic``:
version, input contract, tasks with their classes, and threshold, as the bundle has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from eideticnet.contract.bundle import Bundle
from eideticnet.contract.parts import as_json
from eideticnet.serving.openapi.schemas import answer, answers, error, form, options, request

Json = dict[str, Any]
RAW, NPY, IMAGES = "application/octet-stream", "application/x-npy", ("image/png", "image/jpeg")
_STATUS = {
    "400": "The request has to be changed, or holds no valid token.",
    "404": "There is no such model or version.",
    "408": "The deadline had passed.",
    "413": "Too many bytes, instances or pixels.",
    "415": "The content type is not read here.",
    "500": "The server failed on the request, or its worker died.",
    "503": "The queue is full, or the model is not ready; ask again.",
    "507": "The worker that had the request died; ask again.",
}


def document(bundles: Sequence[Bundle], front_end_error: Mapping[str, Any], url: str = "") -> Json:
    """The whole document for the models that ``bundles`` describe, which answer at ``url``. The schema is
    that of what is answered before a model is asked."""
    schemas: Json = {"Error": error(), "FrontEndError": front_end_error}
    paths: Json = {}
    for bundle in bundles:
        name = bundle.name
        schemas |= {f"{name}.Request": request(bundle), f"{name}.Answer": answer(bundle)}
        schemas[f"{name}.Answers"] = answers(bundle, _ref(f"{name}.Answer"))
        paths[f"/predictions/{quote(name)}"] = {"post": _operation(bundle)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "EideticNet inference", "version": "1.0.0", "license": {"name": "Apache-2.0"}},
        **({"servers": [{"url": url}]} if url else {}),
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(bundle: Bundle) -> Json:
    name = bundle.name
    return {
        "operationId": f"predict-{name}",
        "summary": f"Ask {name} {bundle.model_version}, the version that is the default.",
        "description": "A single instance gets an answer, several get a list. Options stand in the JSON "
        "object, in the form, or in headers; twice only if they agree. With /VERSION behind the name that "
        "version is asked.",
        "parameters": _parameters(bundle),
        "requestBody": {"required": True, "content": _content(bundle)},
        "responses": {"200": _answered(name), **{code: _failed(text) for code, text in _STATUS.items()}},
        "x-eidetic": {
            "version": bundle.model_version,
            "input": as_json(bundle.input),
            "tasks": [{"name": task.name, "classes": list(task.classes)} for task in bundle.tasks],
            "threshold": bundle.routing.threshold,
        },
    }


def _parameters(bundle: Bundle) -> list[Json]:
    """The options as headers. A task's name is percent-encoded there."""
    found = []
    for name, schema in options(bundle).items():
        told = schema.pop("description")
        if "enum" in schema:
            schema["enum"] = [quote(text, safe="") for text in schema["enum"]]
        header = f"eidetic-{name.replace('_', '-')}"
        found.append({"name": header, "in": "header", "description": told, "schema": schema})
    return found


def _content(bundle: Bundle) -> Json:
    name, x = bundle.name, example(bundle)
    shape, dtype = list(bundle.input.shape), bundle.input.dtype
    task = bundle.tasks[0].name
    examples = {
        "one": {"data": x},
        "several": {"instances": [x] * min(2, bundle.limits.max_instances)},
        "options": {"data": x, "task": task, "top_k": 1, "probabilities": True, "threshold": 0},
    }
    binary = {
        RAW: f"Little-endian {dtype}, shape {shape}: one instance, or several back to back.",
        NPY: f"A .npy file of shape {shape}, or the same after a number of instances; never pickled.",
    }
    if bundle.input.image is not None:
        binary |= dict.fromkeys(IMAGES, "One picture of 8 bits for each colour.")
    return {
        "application/json": {
            "schema": _ref(f"{name}.Request"),
            "examples": {key: {"value": value} for key, value in examples.items()},
        },
        **{kind: {"schema": {"description": text}} for kind, text in binary.items()},
        "multipart/form-data": {
            "schema": form(bundle),
            "examples": {"form": {"value": {"data": json.dumps({"data": x}), "task": task}}},
        },
    }


def example(bundle: Bundle) -> Any:
    """An instance that fits: zeros, or the value in range that is nearest to them."""
    low, high = bundle.input.low, bundle.input.high
    value = 0 if low is None else max(0, low)
    nested: Any = value if high is None else min(value, high)
    for size in reversed(bundle.input.shape):
        nested = [nested] * size
    return nested


def _answered(name: str) -> Json:
    kinds = [_ref(f"{name}.Answer"), _ref(f"{name}.Answers")]
    return {
        "description": "What the network says.",
        "content": {"application/json": {"schema": {"oneOf": kinds}}},
    }


def _failed(text: str) -> Json:
    kinds = [_ref("Error"), _ref("FrontEndError")]
    return {"description": text, "content": {"application/json": {"schema": {"oneOf": kinds}}}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}
