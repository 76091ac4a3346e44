"""What all clients do alike, blocking and not, over HTTP and gRPC."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any, Self, Unpack, overload

from eideticnet.client.answers import Answer
from eideticnet.client.call import Call
from eideticnet.client.options import Options, patience
from eideticnet.client.payload import Input, Instances
from eideticnet.client.pieces import Known, Result, asking, run
from eideticnet.client.retry import async_retrying, checked, retrying
from eideticnet.serving.key import Key


class Base:
    """``place`` is where the server is, ``timeout`` and ``retries`` how patient to be."""

    def __init__(self, place: str, key: str | Path, timeout: float, retries: int) -> None:
        self._place, self._key, self._retries = place, Key(key), checked(retries)
        self._timeout, self._known = patience(timeout), Known()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._place!r}, {self._key!r})"


class Closing(ABC):
    """What is to be closed, or used in ``with``."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Blocking(Base, Closing):
    """A client whose calls return when they are answered."""

    @overload
    def predict(self, model: str, x: Mapping[str, Any], **options: Unpack[Options]) -> dict[str, Any]: ...
    @overload
    def predict(self, model: str, x: Instances, **options: Unpack[Options]) -> list[Answer]: ...
    def predict(self, model: str, x: Input, **options: Unpack[Options]) -> dict[str, Any] | list[Answer]:
        """An ``Answer`` for each instance of ``x``; for a JSON request, the answer's JSON.

        Raises ``RequestError`` if the server refused, ``DeadlineError`` if time was up, ``NoAnswerError`` if
        it could not be reached, ``ServingError`` for what can't be sent.
        """

        async def send(call: Call) -> Result:
            return retrying(call, self._key, self._retries)(self._try, call)

        return run(asking(model, x, options, self._timeout, self._known, send))

    @abstractmethod
    def _try(self, call: Call) -> Result:
        """Send one request, once."""


class Coroutines(Base, ABC):
    """The same for coroutines: ``await client.predict(...)``, ``async with``."""

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

        def send(call: Call) -> Awaitable[Result]:
            return async_retrying(call, self._key, self._retries)(self._try, call)

        return await asking(model, x, options, self._timeout, self._known, send)

    @abstractmethod
    async def _try(self, call: Call) -> Result: ...

    @abstractmethod
    async def close(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()
