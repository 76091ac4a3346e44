"""What a replica says to clients over HTTP: an ASGI application over its models.

It answers ``POST /predictions/MODEL[/VERSION]`` as every engine does, and the Open Inference Protocol
(``/v2``). Plain ASGI, since a framework's routing and requests cost more than the rest of this file.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from hashlib import sha256
from hmac import compare_digest
from http import HTTPStatus
from typing import Any, Protocol

from eidetic_runtime.errors import BadRequest
from eidetic_runtime.reply import Reply, Row
from eideticnet.contract.bundle import Bundle
from eideticnet.serving.openapi.document import document
from eideticnet.serving.ray import open_inference
from eideticnet.serving.ray.models import ClosedError, Held, Models, NotHeldError
from eideticnet.serving.ray.received import Receive, Scope, body_of, headers_of, row_of
from eideticnet.serving.ray.told import ERROR_SCHEMA, RefusedError, failed, full, no_token, told

log = logging.getLogger("eidetic.web")

MOST_WAITING = 128
"""Requests that a replica has taken and not answered; one more gets a 503 at once."""

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Answering(Protocol):
    """A replica: what it holds, the SHA-256 of the token that requests carry, and its answers, of which
    ``asked`` allows so many at a time."""

    models: Models
    token: str
    asked: Asked

    async def answer(self, held: Held, row: Row) -> Reply: ...


def known(token: str, authorization: str) -> bool:
    """Whether a header carries the token with the SHA-256 ``token``; "" asks for none. Takes as long for any
    wrong one."""
    scheme, _, given = authorization.partition(" ")
    found = sha256(given.strip().encode("utf-8", "surrogateescape")).hexdigest()
    return not token or (scheme.lower() == "bearer" and compare_digest(found, token))


def found(models: Models, name: str, version: str | None) -> Held:
    """The version that is asked; ``RefusedError`` where there is none."""
    try:
        return models.find(name, version)
    except NotHeldError as error:
        field = "version" if version is not None and name in models.names() else "model"
        raise RefusedError(HTTPStatus.NOT_FOUND, field, str(error)) from None
    except ClosedError as error:
        raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "model", str(error)) from None


class Asked:
    """Answers of a replica, no more at a time than ``MOST_WAITING``."""

    def __init__(self, replica: Answering) -> None:
        self._replica, self._waiting = replica, 0

    async def __call__(self, held: Held, row: Row) -> Reply:
        if self._waiting >= MOST_WAITING:
            raise full(self._waiting)
        self._waiting += 1
        try:
            return await self._replica.answer(held, row)
        finally:
            self._waiting -= 1


class Application:
    """The ASGI application of one replica."""

    def __init__(self, replica: Answering) -> None:
        self._replica = replica

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await _lifespan(receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1003})
        try:
            reply = await self._reply(scope, receive)
        except (RefusedError, BadRequest) as error:
            reply = told(error)
            if scope["path"].startswith("/v2/"):
                reply = open_inference.refused(reply)
        except Exception:
            log.exception("a request failed")
            reply = told(failed())
        headers = [(name.encode(), value.encode("latin-1")) for name, value in reply.headers.items()]
        headers.append((b"content-length", b"%d" % len(reply.body)))
        await send({"type": "http.response.start", "status": int(reply.status), "headers": headers})
        body = b"" if scope["method"] == "HEAD" else reply.body
        return await send({"type": "http.response.body", "body": body})

    async def _reply(self, scope: Scope, receive: Receive) -> Reply:
        place, *rest = scope["path"].removeprefix("/").split("/")
        if place == "predictions" and 1 <= len(rest) <= 2:
            self._method(scope, "POST")
            headers = self._headers(scope)
            held = found(self._replica.models, rest[0], rest[1] if rest[1:] else None)
            return await self._replica.asked(held, row_of(headers, await body_of(headers, receive)))
        if place == "v2":
            return await self._open_inference(rest, scope, receive)
        if place == "ping" and not rest:
            return open_inference.plain({"status": "Healthy"})
        if place == "openapi.json" and not rest:
            self._method(scope, "GET")
            self._headers(scope)
            return open_inference.plain(document(self._bundles(), ERROR_SCHEMA))
        raise _no_path(scope)

    async def _open_inference(self, rest: list[str], scope: Scope, receive: Receive) -> Reply:
        models = self._replica.models
        if rest in (["health", "live"], ["health", "ready"], [], [""]):
            return self._server(rest)
        headers = self._headers(scope)
        what, *named = rest
        name, version, action = _parts(named)
        if what != "models" or action not in ("", "ready", "infer"):
            raise _no_path(scope)
        self._method(scope, "POST" if action == "infer" else "GET")
        held = found(models, name, version)
        if not action:
            return open_inference.plain(
                open_inference.described(held.bundle, list(models.entry(name).versions))
            )
        if action == "ready":
            return open_inference.plain({"name": name, "ready": True})
        body = await body_of(headers, receive)
        wanted = open_inference.read(headers, body)
        return wanted.answered(await self._replica.asked(held, wanted.row))

    def _server(self, rest: list[str]) -> Reply:
        """What needs no token: that the server is there, and whether it has anything that answers."""
        if rest == ["health", "live"]:
            return open_inference.plain({"live": True})
        if rest == ["health", "ready"]:
            ready = bool(self._replica.models.open())
            return open_inference.plain({"ready": ready}, 200 if ready else 503)
        return open_inference.plain(open_inference.about())

    def _headers(self, scope: Scope) -> dict[str, str]:
        """The request's headers, among which is the token."""
        headers = headers_of(scope)
        if not known(self._replica.token, headers.get("authorization", "")):
            raise no_token()
        return headers

    def _method(self, scope: Scope, expected: str) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        if method != expected:
            message = f"is {method}; expected {expected}"
            raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, "method", message)

    def _bundles(self) -> list[Bundle]:
        return [held.archive.bundle for held in self._replica.models.open()]


def _parts(named: list[str]) -> tuple[str, str | None, str]:
    """Model, version and action of ``MODEL[/versions/VERSION][/ACTION]``."""
    name, version, rest = named[0] if named else "", None, named[1:]
    if rest[:1] == ["versions"] and rest[1:]:
        version, rest = rest[1], rest[2:]
    return name, version, "/".join(rest)


def _no_path(scope: Scope) -> RefusedError:
    expected = "expected /predictions/MODEL, /v2/..., /openapi.json or /ping"
    return RefusedError(HTTPStatus.NOT_FOUND, "path", f"{scope['path'][:200]!r} is nothing here; {expected}")


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def application(replica: Answering) -> Application:
    """What Serve runs for one replica."""
    replica.asked = Asked(replica)
    return Application(replica)
