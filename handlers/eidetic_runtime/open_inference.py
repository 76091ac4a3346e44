"""The Open Inference Protocol: tensors by name in, tensors by name out.

By gRPC a server may pass on the model's name, the id and the inputs alone: neither ``parameters`` nor
``raw_input_contents``. So options are small tensors beside ``x``, named like the options; and a response is
whole even when it tells of an error, since a server's own thread may fail at any other.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy.typing as npt

from eidetic_runtime import numbers, options
from eidetic_runtime.contract import Contract, text
from eidetic_runtime.errors import BadRequest, shown

X = "x"
_INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
_FLOATS = ("FP32", "FP64")

Read = tuple[npt.NDArray[Any], options.RequestOptions, str]


def read(fields: dict[str, Any], given: dict[str, Any], grpc: bool, contract: Contract) -> Read:
    """x (n, *shape), the options and the request's id. Any ``BadRequest`` carries that id."""
    reply_to = fields.get("id")
    reply_to = reply_to if isinstance(reply_to, str) else ""
    try:
        tensors = _tensors(fields["inputs"])
        if X not in tensors:
            raise BadRequest(X, "is missing; expected an input tensor of this name")
        for name in ("data", "instances", *options.NAMES):
            if name in fields:
                raise BadRequest(name, "stands beside inputs; expected options among the parameters")
        beside = fields.get("parameters") or {}
        if not isinstance(beside, dict):
            raise BadRequest("parameters", f"holds {shown(beside)}; expected an object")
        for name in (*tensors, *beside):
            if name != X and name not in options.NAMES:
                raise BadRequest(name, f"unexpected; expected {X}, {', '.join(options.NAMES)}")
        told = {name: _scalar(name, t, grpc) for name, t in tensors.items() if name != X}
        asked = options.read(options.merge(options.merge(given, beside), told), contract)
        return _x(tensors[X], contract), asked, reply_to
    except BadRequest as error:
        error.reply_to = reply_to
        raise


def _tensors(inputs: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(inputs, list):
        raise BadRequest("inputs", f"holds {shown(inputs)}; expected a list of tensors")
    found = {}
    for i, tensor in enumerate(inputs):
        if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
            raise BadRequest(f"inputs[{i}]", "is no tensor with a name, a shape, a datatype and data")
        if tensor["name"] in found:
            raise BadRequest(tensor["name"], "is there twice")
        found[tensor["name"]] = tensor
    return found


def _scalar(name: str, tensor: dict[str, Any], grpc: bool) -> Any:
    """The one element of an option's tensor. Bytes that came by gRPC are in base64."""
    data = tensor.get("data")
    if not isinstance(data, list) or len(data) != 1:
        raise BadRequest(name, "expected a tensor of one element, in its contents")
    value = data[0]
    if grpc and isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True).decode("utf-8")
        except (binascii.Error, ValueError):
            raise BadRequest(name, "is not UTF-8") from None
    return value


def _x(tensor: dict[str, Any], contract: Contract) -> npt.NDArray[Any]:
    known = _INTEGERS if contract.dtype.kind == "i" else (*_FLOATS, *_INTEGERS)
    if tensor.get("datatype") not in known:
        told = str(tensor.get("datatype"))[:100]
        raise BadRequest(X, f"has datatype {told!r}; expected one of {', '.join(known)}")
    shape, data = tensor.get("shape"), tensor.get("data")
    if not isinstance(shape, list) or any(type(n) is not int for n in shape):
        told = str(shape)[:100] if isinstance(shape, list) else shown(shape)
        raise BadRequest(X, f"has shape {told}; expected whole numbers")
    many = len(shape) == len(contract.shape) + 1
    if tuple(shape[1:] if many else shape) != contract.shape or 0 in shape:
        expected = f"expected {text(contract.shape)}, or the same after a number of instances"
        raise BadRequest(X, f"has shape {str(shape)[:100]}; {expected}")
    count = shape[0] if many else 1
    if count < 1:
        raise BadRequest(X, f"has shape {str(shape)[:100]}; expected at least one instance")
    numbers.check_count(X, count, contract)
    if not data:
        raise BadRequest(X, "has no contents; raw_input_contents are not passed on")
    flat = numbers.flat(data, X, prod(shape), contract)
    return flat.reshape(count, *contract.shape)


def response(
    rows: Sequence[dict[str, Any]], indices: Sequence[tuple[int, int]], bundle: dict[str, Any], reply_to: str
) -> dict[str, Any]:
    """``indices`` are those of task and label of each row, -1 for none. The tensor ``answer`` holds what HTTP
    would answer, row by row; gRPC's clients get its elements as JSON."""
    return _whole(
        bundle,
        reply_to,
        _tensor("task", "INT64", [task for task, _ in indices]),
        _tensor("label", "INT64", [label for _, label in indices]),
        _tensor("task_probability", "FP32", [row["task_probability"] or 0.0 for row in rows]),
        _tensor("label_probability", "FP32", [row["label_probability"] or 0.0 for row in rows]),
        _tensor("answer", "BYTES", list(rows)),
    )


def refusal(error: BadRequest, bundle: dict[str, Any]) -> dict[str, Any]:
    """A whole response whose only tensor, ``error``, holds the error as JSON."""
    told = error.to_json()
    return {**told, **_whole(bundle, error.reply_to or "", _tensor("error", "BYTES", [told["error"]]))}


def _whole(bundle: dict[str, Any], reply_to: str, *outputs: dict[str, Any]) -> dict[str, Any]:
    name, version = bundle["name"], bundle["model_version"]
    return {"model_name": name, "model_version": version, "id": reply_to, "outputs": list(outputs)}


def _tensor(name: str, datatype: str, data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": data}
