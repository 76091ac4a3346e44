"""TorchServe's gRPC services, from descriptors: no generated code, and neither protoc nor TorchServe here.

They have a pool of their own, so that they can't collide with another library's copy of the same messages.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from eideticnet.files import read_regular
from eideticnet.serving.errors import (
    MOST_BYTES,
    ClosedError,
    RequestError,
    ServingError,
    failure,
    no_answer,
    too_large,
)
from eideticnet.serving.torchserve.words import WRONG_KEY

INFERENCE = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
MANAGEMENT = "org.pytorch.serve.grpc.management.ManagementAPIsService"
OPEN_INFERENCE = "org.pytorch.serve.grpc.openinference.GRPCInferenceService"
_LARGEST_CA = 16 << 20  # bytes
DESCRIPTORS = Path(__file__).with_name("services.binpb")
"""What protoc makes of TorchServe's .proto files; a test generates it again and compares."""


_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
}
_BROKEN = re.compile(r"Stream removed|RST_STREAM|GOAWAY")
"""How the end of a connection looks to a call in the middle of it."""
_NO_ROOM = "has no worker to serve inference request"
"""What TorchServe says of a full queue, and of a model without workers."""


class Rpc:
    """A method of a service on one channel: ``rpc(metadata, timeout, field=value, ...)``.

    Returns the answer's message or, on a channel of ``grpc.aio``, an awaitable of it; an iterator of
    messages where the server streams."""

    def __init__(self, channel: Any, service: str, method: str) -> None:
        described = _pool().FindServiceByName(service).FindMethodByName(method)
        self._request = message_factory.GetMessageClass(described.input_type)
        answer = message_factory.GetMessageClass(described.output_type)
        call = channel.unary_stream if described.server_streaming else channel.unary_unary
        self._send = call(
            f"/{service}/{method}",
            request_serializer=self._request.SerializeToString,
            response_deserializer=answer.FromString,
        )

    def __call__(self, metadata: list[tuple[str, str]], timeout: float, **fields: Any) -> Any:
        message = self._request(**fields)
        if message.ByteSize() > MOST_BYTES:  # which TorchServe would answer with the end of the stream
            raise RequestError(413, too_large(message.ByteSize()))
        try:
            return self._send(message, metadata=metadata, timeout=timeout)
        except (ValueError, grpc.aio.UsageError) as error:
            if "closed" not in str(error):
                raise
            raise ClosedError() from None


def open_channel(target: str, ca: Path | None, *, aio: bool = False) -> Any:
    """A channel to ``target`` (host:port), with TLS if ``ca`` names the certificates to trust."""
    host, made = target.rpartition("//")[2], grpc.aio if aio else grpc
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    if ca is None:
        return made.insecure_channel(host, options=options)
    return made.secure_channel(host, trusting(ca), options=options)


def trusting(ca: Path) -> grpc.ChannelCredentials:
    """Who is trusted by the certificates (PEM) in ``ca``."""
    try:
        return grpc.ssl_channel_credentials(read_regular(ca, _LARGEST_CA))
    except OSError as error:
        raise ServingError(f"no certificates can be read: {error}") from None


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
        pool.Add(file)
    return pool


def named(error: grpc.RpcError, target: str, late: ServingError) -> ServingError:
    """Our own error for what gRPC raised."""
    code, details = error.code(), str(error.details())
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return late
    if code == grpc.StatusCode.UNAVAILABLE or _BROKEN.search(details):
        return no_answer(target, details)
    message, _, java = details.partition("\n")  # TorchServe's own errors end with the exception's class
    kind = java.removesuffix(".()").rpartition(".")[2]
    status = 404 if "NotFound" in kind else _STATUS.get(code, 500)
    if message.startswith("Model ") and _NO_ROOM in message:  # which gRPC calls an internal error
        status, kind = 503, "ServiceUnavailableException"
    if message.startswith("Token Authorization failed"):
        status, kind = 401, WRONG_KEY
    if message in ("", "None"):
        message = f"gRPC's {code.name}, and nothing more: the server could not pass the request on"
    return failure(status, {"error": {"kind": kind or code.name.lower(), "message": message}})
