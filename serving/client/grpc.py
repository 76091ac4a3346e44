"""Predictions over gRPC. Errors are the same as over HTTP.

A model is handed the entries of the request's map and no metadata: options are entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from eideticnet.client.base import Base, Blocking, Coroutines
from eideticnet.client.call import Call
from eideticnet.client.pieces import Result
from eideticnet.client.wire import services


class _Grpc(Base):
    _aio = False

    def __init__(
        self, target: str, key: str | Path, *, timeout: float = 30.0, retries: int = 0, ca: Path | None = None
    ) -> None:
        super().__init__(target, key, timeout, retries)
        self._channel = services.open_channel(target, ca, aio=self._aio)
        self._predictions = services.Rpc(self._channel, services.INFERENCE, "Predictions")

    def _metadata(self, call: Call) -> list[tuple[str, str]]:
        call.authorization = self._key.header()
        return [("authorization", call.authorization), *call.headers.items()]

    @contextmanager
    def _named(self, call: Call) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise services.named(error, self._place, call.late(self._place)) from None


def _message(call: Call) -> dict[str, Any]:
    """The fields of a PredictionsRequest."""
    entries = {**call.fields, "content_type": call.payload.content_type}
    body = {"body": call.payload.content}
    return {
        "model_name": call.model,
        "model_version": call.version,
        "input": body | {name: text.encode() for name, text in entries.items()},
    }


class GrpcClient(_Grpc, Blocking):
    """As ``Client``, over gRPC. ``target``: host:port. ``ca``: certificates (PEM) to trust, which turns
    TLS on."""

    def _try(self, call: Call) -> Result:
        with self._named(call):
            answer = self._predictions(self._metadata(call), call.limit(), **_message(call))
        return call.result(200, answer.prediction)

    def close(self) -> None:
        self._channel.close()


class AsyncGrpcClient(_Grpc, Coroutines):
    """``GrpcClient`` for coroutines. Belongs to the event loop in which it is made."""

    _aio = True

    async def _try(self, call: Call) -> Result:
        with self._named(call):
            answer = await self._predictions(self._metadata(call), call.limit(), **_message(call))
        return call.result(200, answer.prediction)

    async def close(self) -> None:
        await self._channel.close()
