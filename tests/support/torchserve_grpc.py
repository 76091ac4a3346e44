"""gRPC calls of TorchServe by their names, for tests that send what our clients never would; and what its
.proto files are compiled to. Run as a script it writes that anew, for another TorchServe."""

from __future__ import annotations

import tempfile
import zipfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from grpc_tools import protoc

from eideticnet.serving.torchserve.services import DESCRIPTORS, Rpc, open_channel

INFERENCE = "org.pytorch.serve.grpc.inference"
OPEN_INFERENCE = "org.pytorch.serve.grpc.openinference"

_FILES = ("inference.proto", "management.proto", "open_inference_grpc.proto")
_IMPORTED = ("google/rpc/status.proto", "google/protobuf/empty.proto", "google/protobuf/any.proto")


def compiled() -> bytes:
    """Descriptors of the services whose .proto files lie in TorchServe's own jar."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(str(files("ts") / "frontend/model-server.jar")) as jar:
            jar.extractall(folder, [*_FILES, *_IMPORTED])
        path = Path(folder, "descriptors")
        command = ["protoc", f"-I{folder}", "--include_imports", f"--descriptor_set_out={path}", *_FILES]
        assert protoc.main(command) == 0
        return path.read_bytes()


class Caller:
    """Calls the methods of one service by name. ``key`` is the server's token."""

    def __init__(self, service: str, port: int, key: str) -> None:
        self.service, self.channel = service, open_channel(f"127.0.0.1:{port}", None)
        self.metadata = [("authorization", f"Bearer {key}")]

    def __call__(self, name: str, /, **fields: Any) -> Any:
        """The response; an iterator of them where the server streams."""
        return Rpc(self.channel, self.service, name)(self.metadata, 30, **fields)

    def close(self) -> None:
        self.channel.close()


if __name__ == "__main__":
    DESCRIPTORS.write_bytes(compiled())
