"""gRPC calls of TorchServe, made from the protos that lie in its own jar."""

from __future__ import annotations

import importlib.util
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc

INFERENCE = "org.pytorch.serve.grpc.inference"
OPEN_INFERENCE = "org.pytorch.serve.grpc.openinference"


@cache
def pool() -> descriptor_pool.DescriptorPool:
    """Every message and service of TorchServe."""
    spec = importlib.util.find_spec("ts")
    assert spec is not None
    assert spec.origin is not None
    jar = Path(spec.origin).parent / "frontend/model-server.jar"
    found = descriptor_pool.DescriptorPool()
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(jar) as archive:
            archive.extractall(folder, [n for n in archive.namelist() if n.endswith(".proto")])
        names = ["inference.proto", "open_inference_grpc.proto"]
        out = Path(folder) / "all"
        assert not protoc.main(
            ["", f"-I{folder}", f"--descriptor_set_out={out}", "--include_imports", *names]
        )
        for file in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file:
            found.Add(file)  # type: ignore[no-untyped-call]
    return found


def message(name: str) -> Any:
    """The class of a message, by its full name."""
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(name))


class Caller:
    """Calls the methods of one service by name. ``key`` is the server's token."""

    def __init__(self, service: str, port: int, key: str) -> None:
        self.service = pool().FindServiceByName(service)
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)])
        self.metadata = [("authorization", f"Bearer {key}")]

    def __call__(self, name: str, stream: bool = False, **fields: Any) -> Any:
        """The response; a list of them where the server streams."""
        method = self.service.methods_by_name[name]
        request, response = (
            message_factory.GetMessageClass(t) for t in (method.input_type, method.output_type)
        )
        make = self.channel.unary_stream if stream else self.channel.unary_unary
        call = make(f"/{self.service.full_name}/{name}", request.SerializeToString, response.FromString)
        answer = call(request(**fields), metadata=self.metadata, timeout=30)
        return list(answer) if stream else answer

    def close(self) -> None:
        self.channel.close()
