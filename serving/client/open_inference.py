"""The Open Inference Protocol over gRPC, of a server that was started to speak it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Unpack

import grpc
import numpy as np
import numpy.typing as npt

from eideticnet.client import options
from eideticnet.client.answers import Answer, counted, rows
from eideticnet.client.base import Base, Closing
from eideticnet.client.call import Call
from eideticnet.client.options import Options
from eideticnet.client.payload import Instances, Payload, numbers
from eideticnet.client.retry import retrying
from eideticnet.client.wire import services
from eideticnet.serving.errors import DeadlineError, RequestError, failure

_TYPES = {"f": ("FP32", "fp32_contents"), "i": ("INT64", "int64_contents")}


class OpenInference(Base, Closing):
    """Speaks to the server's own package of the protocol, which stock clients don't reach.

    It passes neither the request's parameters nor raw contents on, so options are small
    tensors beside ``x`` and numbers go one by one: slower than ``GrpcClient``, and nothing is split.
    """

    def __init__(
        self, target: str, key: str | Path, *, timeout: float = 30.0, retries: int = 0, ca: Path | None = None
    ) -> None:
        super().__init__(target, key, timeout, retries)
        self._channel = services.open_channel(target, ca)

    def live(self) -> bool:
        """Whether the server answers at all."""
        return bool(self._call("ServerLive").live)

    def ready(self) -> bool:
        """Whether the server says that it can infer; only a prediction proves it."""
        return bool(self._call("ServerReady").ready)

    def model_ready(self, model: str, version: str = "") -> bool:
        """Whether the server says so of one model."""
        return bool(self._call("ModelReady", name=model, version=version).ready)

    def metadata(self, model: str) -> dict[str, Any]:
        """Name and versions of a model; the server tells no more, and nothing about itself."""
        told = self._call("ModelMetadata", name=model)
        return {"name": told.name, "versions": list(told.versions), "platform": told.platform}

    def predict(self, model: str, x: Instances, **given: Unpack[Options]) -> list[Answer]:
        """An ``Answer`` for each instance of ``x``, an array, list or tensor."""
        time, version = options.timed(given, self._timeout), options.text(given, "version")
        array = _finite("x", numbers(x))
        tensors = [_tensor("x", array), *(_option(n, v) for n, v in time.values.items())]
        sent = Payload(b"", "", instances=(1, *array.shape[:1]))
        call = Call(model, version, sent, time, given)  # for its time, names, tries and number of instances
        request_id = options.text(given, "request_id")
        request = {"model_name": model, "model_version": version, "id": request_id, "inputs": tensors}
        return retrying(call, self._key, self._retries)(self._try, call, request)

    def _try(self, call: Call, request: dict[str, Any]) -> list[Answer]:
        call.authorization = self._key.header()
        rpc = services.Rpc(self._channel, services.OPEN_INFERENCE, "ModelInfer")
        try:
            told = rpc([("authorization", call.authorization)], call.limit(), **request)
        except grpc.RpcError as error:
            raise services.named(error, self._place, call.late(self._place)) from None
        answers = _answers({output.name: output for output in told.outputs})
        return counted(200, answers, call.payload.instances)

    def _call(self, method: str, **fields: Any) -> Any:
        rpc = services.Rpc(self._channel, services.OPEN_INFERENCE, method)
        try:
            return rpc([("authorization", self._key.header())], self._timeout, **fields)
        except grpc.RpcError as error:
            raise services.named(error, self._place, DeadlineError(seconds=self._timeout)) from None

    def close(self) -> None:
        self._channel.close()


def _finite(name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``array``, if the server can pass it on, which fails at what JSON does not know."""
    if len(bad := np.argwhere(~np.isfinite(array))):
        place = name + "".join(f"[{i}]" for i in bad[0])
        message = f"is {array[tuple(bad[0])]}; expected a finite number"
        raise RequestError(400, {"error": {"kind": "bad_request", "field": place, "message": message}})
    return array


def _tensor(name: str, array: npt.NDArray[Any]) -> dict[str, Any]:
    datatype, field = _TYPES[array.dtype.kind]
    return {
        "name": name,
        "datatype": datatype,
        "shape": array.shape,
        "contents": {field: array.ravel().tolist()},
    }


def _option(name: str, value: str | float | bool) -> dict[str, Any]:
    """A tensor of one element, as the handler reads options of this protocol."""
    if isinstance(value, bool):
        return {"name": name, "datatype": "BOOL", "shape": [1], "contents": {"bool_contents": [value]}}
    if isinstance(value, str):
        return {
            "name": name,
            "datatype": "BYTES",
            "shape": [1],
            "contents": {"bytes_contents": [value.encode()]},
        }
    if isinstance(value, int):
        return _tensor(name, numbers([value]))
    _finite(name, np.array(value))
    return {"name": name, "datatype": "FP64", "shape": [1], "contents": {"fp64_contents": [value]}}


def _answers(outputs: dict[str, Any]) -> list[Answer]:
    if "error" in outputs:
        error = json.loads(outputs["error"].contents.bytes_contents[0])
        raise failure(200, {"error": error})
    if "answer" not in outputs:
        raise RequestError(200, f"outputs {', '.join(outputs)}; expected one that is called answer")
    return [row for told in outputs["answer"].contents.bytes_contents for row in rows(200, told)]
