"""TorchServe's management API over gRPC, which the project itself does not use."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from eideticnet.client.options import patience
from eideticnet.serving.errors import DeadlineError
from eideticnet.serving.key import Key
from eideticnet.serving.torchserve import services
from eideticnet.serving.torchserve.services import named
from tests.support.waiting import PATIENCE


class GrpcManagement:
    """One method for each of the service's; ``key`` is the management token or ``keys.json``."""

    def __init__(
        self, target: str, key: str | Path, *, timeout: float = PATIENCE, ca: Path | None = None
    ) -> None:
        self.target, self._key, self._timeout = target, Key(key, "management"), patience(timeout)
        self._channel = services.open_channel(target, ca)

    def list_models(self) -> list[dict[str, Any]]:
        """Name and archive of each model's default version."""
        models = json.loads(self._send("ListModels", limit=1000))["models"]
        return list(models)

    def describe(self, model: str, version: str = "all") -> list[dict[str, Any]]:
        """TorchServe's description of one version, or of all."""
        described = json.loads(self._send("DescribeModel", model_name=model, model_version=version))
        return list(described)

    def register(self, url: str, **settings: Any) -> str:
        """Register an archive; ``settings`` are the fields of RegisterModelRequest."""
        return self._status("RegisterModel", url=url, **settings)

    def scale(self, model: str, version: str, workers: int) -> str:
        """So many workers, once all of them have started."""
        count = {"min_worker": workers, "max_worker": workers, "synchronous": True}
        return self._status("ScaleWorker", model_name=model, model_version=version, **count)

    def set_default(self, model: str, version: str) -> str:
        """Let ``version`` answer requests that name none."""
        return self._status("SetDefault", model_name=model, model_version=version)

    def unregister(self, model: str, version: str) -> str:
        """Stop the workers of a version that is not the default."""
        return self._status("UnregisterModel", model_name=model, model_version=version)

    def _status(self, method: str, **fields: Any) -> str:
        text = self._send(method, **fields)
        try:
            return str(json.loads(text)["status"])
        except (ValueError, KeyError, TypeError):
            return text.strip()

    def _send(self, method: str, **fields: Any) -> str:
        rpc = services.Rpc(self._channel, services.MANAGEMENT, method)
        try:
            answer = rpc([("authorization", self._key.header())], self._timeout, **fields)
        except grpc.RpcError as error:
            raise named(error, self.target, DeadlineError(seconds=self._timeout)) from None
        return str(answer.msg)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> GrpcManagement:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
