"""Predictions over HTTP."""

from __future__ import annotations

import asyncio
import ssl
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import quote

import httpx

from eideticnet.client.base import Base, Blocking, Coroutines
from eideticnet.client.bounded import BoundedTransport
from eideticnet.client.call import Call
from eideticnet.client.pieces import Result
from eideticnet.serving.errors import (
    MOST_BYTES,
    ClosedError,
    RequestError,
    ServingError,
    no_answer,
    too_large,
)


class _Http(Base):
    def __init__(
        self,
        url: str,
        key: str | Path,
        *,
        timeout: float = 30.0,
        retries: int = 0,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        super().__init__(_checked(url), key, timeout, retries)
        many = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        self._open(url, {"trust_env": False, "verify": verify, "limits": many})

    @abstractmethod
    def _open(self, url: str, settings: dict[str, Any]) -> None: ...

    def _request(self, call: Call) -> _Request:
        call.authorization = self._key.header()
        return {
            "url": call.path,
            "content": call.payload.content,
            "headers": {
                "Authorization": call.authorization,
                "Content-Type": call.payload.content_type,
                **call.headers,
                **{_header(name): quote(text, safe="") for name, text in call.fields.items()},
            },
            "timeout": call.limit(),
        }

    @contextmanager
    def _named(self, call: Call) -> Iterator[None]:
        """Turn what httpx raises into our own errors."""
        try:
            yield
        except (httpx.TimeoutException, TimeoutError):
            raise call.late(self._place) from None
        except RuntimeError as error:  # httpx has no class of its own for it
            if "closed" not in str(error):
                raise
            raise ClosedError() from None
        except httpx.HTTPError as error:
            size = len(call.payload.content)
            if size > MOST_BYTES:  # the server closes the connection before it has read that much
                raise RequestError(413, too_large(size)) from None
            raise no_answer(self._place, error) from error


def _checked(url: str) -> str:
    """``url``, if it names a server."""
    try:
        found = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise ServingError(f"url is {url!r}: {error}; {_EXPECTED}") from None
    if found.scheme not in ("http", "https") or not found.host:
        raise ServingError(f"url is {url!r}; {_EXPECTED}")
    return url


_EXPECTED = "expected one that begins with http:// or https://, such as http://127.0.0.1:8080"


def _header(option: str) -> str:
    """Query parameters reach a model only beside a form, so options travel as headers."""
    return f"eidetic-{option.replace('_', '-')}"


class _Request(TypedDict):
    url: str
    content: bytes
    headers: dict[str, str]
    timeout: float


class Client(_Http, Blocking):
    """Asks for predictions. ``key`` is the server's inference token, or the path of its
    ``keys.json``, which is read again after a restart of the server.

    ``timeout``: seconds that one prediction may take, tries and pauses together, unless it has a
    deadline; in the end a request that the server lost has no other. ``retries``: how many more tries
    (``eideticnet.client.retry``); none by default, because a retry hides what a test or an operator may
    want to count. ``verify``: whom to trust over TLS, by default the system's certificates. May be
    shared by threads.
    """

    def _open(self, url: str, settings: dict[str, Any]) -> None:
        self._transport = BoundedTransport(**settings)
        self._http = httpx.Client(base_url=url, transport=self._transport, trust_env=False)

    def _try(self, call: Call) -> Result:
        with self._named(call), self._transport.until(call.ends):
            response = self._http.post(**self._request(call))
        return call.result(response.status_code, response.content)

    def close(self) -> None:
        self._http.close()


class AsyncClient(_Http, Coroutines):
    """``Client`` for coroutines: ``await client.predict(...)``, ``async with``."""

    def _open(self, url: str, settings: dict[str, Any]) -> None:
        self._http = httpx.AsyncClient(base_url=url, **settings)

    async def _try(self, call: Call) -> Result:
        with self._named(call):
            async with asyncio.timeout(call.limit()):
                response = await self._http.post(**self._request(call))
        return call.result(response.status_code, response.content)

    async def close(self) -> None:
        await self._http.aclose()
