"""The gRPC services that a replica offers: those of the other engine, whose clients are ours too, and the
Open Inference Protocol's own, which stock clients call.

The standard package has the same messages as the other engine's copy of it, so it is made from that.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from eideticnet.serving.torchserve.services import DESCRIPTORS, INFERENCE, OPEN_INFERENCE

__all__ = ["INFERENCE", "OPEN_INFERENCE", "STANDARD", "add_services", "answer_to"]

STANDARD = "inference.GRPCInferenceService"
_METHODS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")
_SERVICES = {INFERENCE: ("Ping", "Predictions"), OPEN_INFERENCE: _METHODS, STANDARD: _METHODS}


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    """One of its own, so that it can't collide with another library's copy of the same messages."""
    pool, copied = descriptor_pool.DescriptorPool(), OPEN_INFERENCE.rpartition(".")[0]
    for file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
        pool.Add(file)
        if file.package == copied:
            text = text_format.MessageToString(file).replace(copied, STANDARD.rpartition(".")[0])
            standard = text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
            standard.name = f"standard_{file.name}"
            pool.Add(standard)
    return pool


def answer_to(service: str, method: str) -> Any:
    """The class of a method's response."""
    described = _pool().FindServiceByName(service).FindMethodByName(method)
    return message_factory.GetMessageClass(described.output_type)


def add_services(servicer: Any, server: Any) -> None:
    """Register all of them, as generated code does."""
    for service, methods in _SERVICES.items():
        handlers = {}
        for method in methods:
            described = _pool().FindServiceByName(service).FindMethodByName(method)
            request = message_factory.GetMessageClass(described.input_type)
            handlers[method] = grpc.unary_unary_rpc_method_handler(
                getattr(servicer, method), request.FromString, lambda answer: answer.SerializeToString()
            )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
