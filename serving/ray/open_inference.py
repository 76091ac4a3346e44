"""The Open Inference Protocol over HTTP, for stock clients: tensors as JSON or, behind it, as bytes.

A model reads the protocol's JSON itself, so what is done here is what is around it: binary tensors become
lists and answers binary tensors, outputs are those that were asked for, and errors are text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import numpy as np

from eidetic_runtime.answers import encode
from eidetic_runtime.packed import FIELD as PACKED
from eidetic_runtime.packed import coding, unpacked
from eidetic_runtime.reply import Reply, Row
from eideticnet.serving.ray.told import RefusedError

Json = dict[str, Any]

LENGTH = "inference-header-content-length"
"""The header that says how long the JSON before binary tensors is."""
_BINARY, _SIZE, _ALL_BINARY = "binary_data", "binary_data_size", "binary_data_output"
_TYPES = {
    "BOOL": "?", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
    **{f"INT{8 * n}": f"<i{n}" for n in (1, 2, 4, 8)}, **{f"UINT{8 * n}": f"<u{n}" for n in (1, 2, 4, 8)},
}  # fmt: skip
OUTPUTS = {"task": "INT64", "label": "INT64", "task_probability": "FP32", "label_probability": "FP32",
           "answer": "BYTES"}  # fmt: skip
"""The outputs, all (N,): what ``answer`` holds is JSON."""
_PLATFORMS = {"onnx": "onnxruntime_onnx", "torchscript": "pytorch_torchscript", "pt2": "pytorch_pt2"}


def plain(value: Json, status: int = 200) -> Reply:
    """JSON."""
    return Reply(encode(value), status)


def about() -> Json:
    """The server's name, version and extensions."""
    return {"name": "eideticnet", "version": version("eideticnet"), "extensions": ["binary_tensor_data"]}


def described(bundle: Mapping[str, Any], versions: Sequence[str]) -> Json:
    """A model's inputs and outputs."""
    spec = bundle["input"]
    datatype = "INT64" if spec["dtype"] == "int64" else "FP32"
    return {
        "name": bundle["name"],
        "versions": sorted(versions),
        "platform": _PLATFORMS.get(bundle["format"], bundle["format"]),
        "inputs": [{"name": "x", "datatype": datatype, "shape": [-1, *spec["shape"]]}],
        "outputs": [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in OUTPUTS.items()],
    }


def refused(reply: Reply) -> Reply:
    """An error in the protocol's form, whose ``error`` is text; kind and field stand beside it."""
    error = json.loads(reply.body)["error"]
    text = {"error": f"{error['field']}: {error['message']}", "kind": error["kind"], "field": error["field"]}
    return Reply(encode(text), reply.status, reply.headers)


def elements(name: str, datatype: object, data: bytes) -> list[Any]:
    """The elements of a tensor that came as bytes."""
    if datatype == "BYTES":
        return _texts(name, data)
    kind = np.dtype(_TYPES.get(str(datatype), "V0"))
    if not kind.itemsize or len(data) % kind.itemsize:
        raise _bad(name, f"has {len(data)} bytes of {str(datatype)[:100]!r}, which are no tensor")
    found: list[Any] = np.frombuffer(data, kind).tolist()
    return found


def _texts(name: str, data: bytes) -> list[str]:
    found, at = list[str](), 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        if end > len(data) or at + 4 > len(data):
            raise _bad(name, "has BYTES that are cut short")
        try:
            found.append(data[at + 4 : end].decode())
        except UnicodeDecodeError:
            raise _bad(name, "is not UTF-8") from None
        at = end
    return found


def _bad(field: str, message: str) -> RefusedError:
    return RefusedError(HTTPStatus.BAD_REQUEST, field, message)


@dataclass(frozen=True)
class Wanted:
    """A request as the model reads it, and which outputs are wanted: by name, and whether as bytes."""

    row: Row
    outputs: Mapping[str, bool]

    def answered(self, reply: Reply) -> Reply:
        """The response that carries the model's ``reply``."""
        if reply.status != HTTPStatus.OK:
            return refused(reply)
        told = json.loads(reply.body)
        tensors = chosen(told["outputs"], list(self.outputs))
        blobs = [packed(tensor) for tensor in tensors if self.outputs[tensor["name"]]]
        head = encode({**told, "outputs": tensors})
        if not blobs:
            return Reply(head, headers=reply.headers)
        headers = {**reply.headers, "content-type": "application/octet-stream", LENGTH: str(len(head))}
        return Reply(head + b"".join(blobs), headers=headers)


def chosen(tensors: Sequence[Json], names: Sequence[str]) -> list[Json]:
    """Those of the names, in their order; the elements of BYTES are text, as the protocol has it."""
    by_name = {tensor["name"]: tensor for tensor in tensors}
    found = [by_name[name] for name in names]
    for tensor in found:
        if tensor["datatype"] == "BYTES":
            tensor["data"] = [encode(element).decode() for element in tensor["data"]]
    return found


def packed(tensor: Json) -> bytes:
    """The elements of ``tensor`` as bytes, which its parameters count from then on."""
    data = tensor.pop("data")
    if tensor["datatype"] == "BYTES":
        texts = [text.encode() for text in data]
        found = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    else:
        found = np.array(data, _TYPES[tensor["datatype"]]).tobytes()
    tensor["parameters"] = {_SIZE: len(found)}
    return found


def read(headers: Mapping[str, str], body: bytes) -> Wanted:
    """Read the body of an inference request. What is no JSON is left to the model, which says so."""
    rest = {name: value for name, value in headers.items() if name != PACKED}
    if packing := coding(headers.get(PACKED, "")):
        body = unpacked(body, packing)
    name, kind = headers.get("x-request-id", ""), {**rest, "content-type": "application/json"}
    length = headers.get(LENGTH, str(len(body)))
    if not length.isdecimal() or int(length) > len(body):
        raise _bad(LENGTH, f"is {length[:100]!r}; expected the bytes of JSON in a body of {len(body)}")
    text, blobs = body[: int(length)], body[int(length) :]
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        return Wanted((name, kind, {"body": text}), {})
    parameters = fields.get("parameters")
    binary = isinstance(parameters, dict) and parameters.pop(_ALL_BINARY, False) is True
    outputs = _outputs(fields.pop("outputs", None), binary)
    if not _filled(fields.get("inputs"), blobs) and not isinstance(parameters, dict):
        return Wanted((name, kind, {"body": text}), outputs)  # the model looks for names given twice
    return Wanted((name, kind, {"body": fields}), outputs)


def _outputs(asked: Any, binary: bool) -> dict[str, bool]:
    """Which outputs, and whether as bytes."""
    if asked is None or asked == []:
        return dict.fromkeys(OUTPUTS, binary)
    found = {}
    for output in asked if isinstance(asked, list) else [None]:
        name = output.get("name") if isinstance(output, dict) else None
        if name not in OUTPUTS:
            raise _bad("outputs", f"names {str(name)[:100]!r}; expected some of {', '.join(OUTPUTS)}")
        parameters = output["parameters"] if isinstance(output, dict) and "parameters" in output else None
        own = parameters.get(_BINARY, binary) if isinstance(parameters, dict) else binary
        found[name] = own is True
    return found


def _filled(inputs: Any, blobs: bytes) -> bool:
    """Give each tensor its elements from ``blobs``, in which they lie one behind the other; whether any got
    some."""
    at, filled = 0, False
    for tensor in inputs if isinstance(inputs, list) else []:
        size = _size(tensor)
        if size is None:
            continue
        name = str(tensor.get("name"))[:100]
        if type(size) is not int or not 0 <= size <= len(blobs) - at:
            raise _bad(name, f"has {_SIZE} {str(size)[:100]}; {len(blobs) - at} bytes are left")
        tensor["data"] = elements(name, tensor.get("datatype"), blobs[at : at + size])
        at, filled = at + size, True
    if at < len(blobs):
        raise _bad("body", f"has {len(blobs) - at} bytes behind its tensors; expected none")
    return filled


def _size(tensor: Any) -> Any:
    """How many bytes a tensor has; None where it has a list."""
    parameters = tensor.get("parameters") if isinstance(tensor, dict) else None
    return parameters.get(_SIZE) if isinstance(parameters, dict) else None
