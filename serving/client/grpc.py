"""Predictions over gRPC. Errors are the same as over HTTP.

A model is handed the entries of the request's map and no metadata: options are entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack, overload

import grpc

from eideticnet.client.answers import Answer
from eideticnet.client.call import Call
from eideticnet.client.options import Options, patience
from eideticnet.client.payload import Input, Instances
from eideticnet.client.pieces import Known, asking, run, run_async
from eideticnet.client.retry import async_retrying, checked, retrying
from eideticnet.client.wire import services
from eideticnet.serving.key import Key


class _Base:
    def __init__(self, target: str, key: str | Path, timeout: float, retries: int) -> None:
        self.target, self._key, self._retries = target, Key(key), checked(retries)
        self._timeout, self._known = patience(timeout), Known()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.target!r}, {self._key!r})"

    def _metadata(self, call: Call) -> list[tuple[str, str]]:
        call.authorization = self._key.header()
        return [("authorization", call.authorization), *call.headers.items()]

    @contextmanager
    def _named(self, call: Call) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise services.named(error, self.target, call.late(self.target)) from None


def _message(call: Call) -> dict[str, Any]:
    """The fields of a PredictionsRequest."""
    entries = {**call.fields, "content_type": call.payload.content_type}
    body = {"body": call.payload.content}
    return {
        "model_name": call.model,
        "model_version": call.version,
        "input": body | {name: text.encode() for name, text in entries.items()},
    }


class GrpcClient(_Base):
    """As ``Client``, over gRPC. ``target``: host:port. ``ca``: certificates (PEM) to trust, which turns
    TLS on."""

    def __init__(
        self, target: str, key: str | Path, *, timeout: float = 30.0, retries: int = 0, ca: Path | None = None
    ) -> None:
        super().__init__(target, key, timeout, retries)
        self._channel = services.open_channel(target, ca)
        self._predictions = services.Rpc(self._channel, services.INFERENCE, "Predictions")

    @overload
    def predict(self, model: str, x: Mapping[str, Any], **options: Unpack[Options]) -> dict[str, Any]: ...
    @overload
    def predict(self, model: str, x: Instances, **options: Unpack[Options]) -> list[Answer]: ...
    def predict(self, model: str, x: Input, **options: Unpack[Options]) -> dict[str, Any] | list[Answer]:
        """As ``Client.predict``."""
        asked = asking(model, x, options, self._timeout, self._known)
        return run(asked, lambda call: retrying(call, self._key, self._retries)(self._try, call))

    def _try(self, call: Call) -> dict[str, Any] | list[Answer]:
        with self._named(call):
            answer = self._predictions(self._metadata(call), call.limit(), **_message(call))
        return call.result(200, answer.prediction)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> GrpcClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncGrpcClient(_Base):
    """``GrpcClient`` for coroutines. Belongs to the event loop in which it is made."""

    def __init__(
        self, target: str, key: str | Path, *, timeout: float = 30.0, retries: int = 0, ca: Path | None = None
    ) -> None:
        super().__init__(target, key, timeout, retries)
        self._channel = services.open_channel(target, ca, aio=True)
        self._predictions = services.Rpc(self._channel, services.INFERENCE, "Predictions")

    @overload
    async def predict(
        self, model: str, x: Mapping[str, Any], **options: Unpack[Options]
    ) -> dict[str, Any]: ...
    @overload
    async def predict(self, model: str, x: Instances, **options: Unpack[Options]) -> list[Answer]: ...
    async def predict(
        self, model: str, x: Input, **options: Unpack[Options]
    ) -> dict[str, Any] | list[Answer]:
        """As ``Client.predict``."""
        asked = asking(model, x, options, self._timeout, self._known)
        return await run_async(
            asked, lambda call: async_retrying(call, self._key, self._retries)(self._try, call)
        )

    async def _try(self, call: Call) -> dict[str, Any] | list[Answer]:
        with self._named(call):
            answer = await self._predictions(self._metadata(call), call.limit(), **_message(call))
        return call.result(200, answer.prediction)

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> AsyncGrpcClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
