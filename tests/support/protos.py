"""gRPC calls of TorchServe by their names, for tests that send what our clients never would."""

from __future__ import annotations

from typing import Any

from serving.client.stubs import Rpc, open_channel

INFERENCE = "org.pytorch.serve.grpc.inference"
OPEN_INFERENCE = "org.pytorch.serve.grpc.openinference"


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
