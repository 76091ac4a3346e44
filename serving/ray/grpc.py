"""What a replica says over gRPC: predictions as the other engine's clients ask for them, and the Open
Inference Protocol, whose stock clients are told of errors by a status.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import grpc

from eidetic_runtime.reply import Reply, Row
from eideticnet.serving.errors import MOST_BYTES, too_large
from eideticnet.serving.ray import open_inference as protocol
from eideticnet.serving.ray.protocols import INFERENCE, OPEN_INFERENCE, STANDARD, answer_to
from eideticnet.serving.ray.told import RefusedError, failed, no_token, told
from eideticnet.serving.ray.web import Asked, found, known

if TYPE_CHECKING:
    from eideticnet.serving.ray.models import Held, Models

GRPC_SERVICERS = ["eideticnet.serving.ray.protocols.add_services"]
"""What Serve's gRPC options name."""
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    503: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_CONTENTS = {
    "BOOL": "bool_contents", "INT64": "int64_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents",
    "FP64": "fp64_contents", "BYTES": "bytes_contents", **{f"INT{n}": "int_contents" for n in (8, 16, 32)},
    **{f"UINT{n}": "uint_contents" for n in (8, 16, 32)},
}  # fmt: skip


class GrpcMethods:
    """The methods of all services, by name, for a replica to inherit; ``asked`` are its answers."""

    models: Models
    token: str
    asked: Asked

    async def Ping(self, request: Any, grpc_context: Any) -> Any:  # noqa: N802
        """Whether the server is there."""
        return answer_to(INFERENCE, "Ping")(health='{"status": "Healthy"}')

    async def Predictions(self, request: Any, grpc_context: Any) -> Any:  # noqa: N802
        """The JSON of an answer, or of a model's error."""
        response = answer_to(INFERENCE, "Predictions")
        try:
            held = self._held(grpc_context, request.model_name, request.model_version)
            if request.ByteSize() > MOST_BYTES:
                raise RefusedError(413, "body", too_large(request.ByteSize())["error"]["message"])
            reply = await self.asked(held, (_name(grpc_context), {}, dict(request.input)))
        except RefusedError as error:
            if error.status != HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                return _refuse(grpc_context, error, response())
            reply = told(error)
        return response(prediction=reply.body)

    async def ServerLive(self, request: Any, grpc_context: Any) -> Any:  # noqa: N802
        """Whether the server is there."""
        return _response(request, "ServerLive")(live=True)

    async def ServerReady(self, request: Any, grpc_context: Any) -> Any:  # noqa: N802
        """Whether it has anything that answers."""
        return _response(request, "ServerReady")(ready=bool(self.models.open()))

    async def ServerMetadata(self, request: Any, grpc_context: Any) -> Any:  # noqa: N802
        """The server's name and version."""
        return _response(request, "ServerMetadata")(**protocol.about())

    async def ModelReady(self, request: Any, grpc_context: Any) -> Any:  # noqa: N802
        """Whether a model, or a version of it, answers."""
        response = _response(request, "ModelReady")
        try:
            self._held(grpc_context, request.name, request.version)
        except RefusedError as error:
            return _refuse(grpc_context, error, response())
        return response(ready=True)

    async def ModelMetadata(self, request: Any, grpc_context: Any) -> Any:  # noqa: N802
        """A model's inputs and outputs."""
        response = _response(request, "ModelMetadata")
        try:
            held = self._held(grpc_context, request.name, request.version)
            return response(**protocol.described(held.bundle, list(self.models.entry(held.name).versions)))
        except RefusedError as error:
            return _refuse(grpc_context, error, response())

    async def ModelInfer(self, request: Any, grpc_context: Any) -> Any:  # noqa: N802
        """Tensors to tensors."""
        response = _response(request, "ModelInfer")
        try:
            held = self._held(grpc_context, request.model_name, request.model_version)
            reply = await self.asked(held, _row(request, _name(grpc_context)))
            return _inferred(request, reply, response, grpc_context)
        except RefusedError as error:
            return _refuse(grpc_context, error, response())

    def _held(self, context: Any, name: str, version: str) -> Held:
        sent = dict(context.invocation_metadata())
        if not known(self.token, str(sent.get("authorization", ""))):
            raise no_token()
        return found(self.models, name, version or None)


def _name(context: Any) -> str:
    return str(dict(context.invocation_metadata()).get("x-request-id", ""))


def _response(request: Any, method: str) -> Any:
    """The class of the response, of the package that the request is of."""
    standard = request.DESCRIPTOR.full_name.startswith(STANDARD.partition(".")[0] + ".")
    return answer_to(STANDARD if standard else OPEN_INFERENCE, method)


def _refuse(context: Any, error: RefusedError, empty: Any) -> Any:
    context.set_code(_CODES.get(error.status, grpc.StatusCode.INTERNAL))
    context.set_details(f"{error.field}: {error.message}")
    return empty


def _row(request: Any, name: str) -> Row:
    """The protocol's JSON of a message, as over HTTP."""
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise RefusedError(
            400, "raw_input_contents", f"has {len(raw)} tensors; expected {len(request.inputs)}"
        )
    inputs = []
    for place, tensor in enumerate(request.inputs):
        told = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        data = _elements(tensor) if not raw else protocol.elements(tensor.name, tensor.datatype, raw[place])
        inputs.append({**told, "data": data})
    fields = {"id": request.id, "inputs": inputs}
    if request.parameters:
        fields["parameters"] = {key: _value(value) for key, value in request.parameters.items()}
    return name, {"content-type": "application/json"}, {"body": fields}


def _elements(tensor: Any) -> list[Any]:
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        return []
    found = list(getattr(tensor.contents, field))
    try:
        return [each.decode() for each in found] if tensor.datatype == "BYTES" else found
    except UnicodeDecodeError:
        raise RefusedError(400, tensor.name, "is not UTF-8") from None


def _value(parameter: Any) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return None if kind is None else getattr(parameter, kind)


def _inferred(request: Any, reply: Reply, response: Any, context: Any) -> Any:
    """The message that carries a model's reply. An error is a status to stock clients; ours read it from a
    tensor, as of the other engine."""
    body: Mapping[str, Any] = json.loads(reply.body)
    if "error" in body and (response is answer_to(STANDARD, "ModelInfer") or "outputs" not in body):
        error = body["error"]
        status = reply.status if reply.status in _CODES else failed().status
        context.set_code(_CODES.get(status, grpc.StatusCode.INTERNAL))
        context.set_details(f"{error['field']}: {error['message']}")
        return response()
    names = [output.name for output in request.outputs] or [output["name"] for output in body["outputs"]]
    known = {output["name"] for output in body["outputs"]}
    if missing := [name for name in names if name not in known and "error" not in body]:
        raise RefusedError(400, "outputs", f"names {missing[0][:100]!r}; expected some of {', '.join(known)}")
    tensors = protocol.chosen(body["outputs"], [name for name in names if name in known] or list(known))
    told = {name: body[name] for name in ("model_name", "model_version", "id")}
    if not request.raw_input_contents:
        return response(**told, outputs=[_tensor(tensor) for tensor in tensors])
    raw = [protocol.packed(tensor) for tensor in tensors]  # as the inputs came
    shown = [{name: tensor[name] for name in ("name", "datatype", "shape")} for tensor in tensors]
    return response(**told, outputs=shown, raw_output_contents=raw)


def _tensor(tensor: dict[str, Any]) -> dict[str, Any]:
    data = [each.encode() for each in tensor["data"]] if tensor["datatype"] == "BYTES" else tensor["data"]
    shown = {name: tensor[name] for name in ("name", "datatype", "shape")}
    return {**shown, "contents": {_CONTENTS[tensor["datatype"]]: data}}
