"""What a replica says to clients: an ASGI application over its models."""

from __future__ import annotations

from typing import Any, Protocol

from eidetic_runtime.reply import Reply, Row
from eideticnet.serving.ray.models import Held, Models, NotHeldError


class Answering(Protocol):
    """A replica: what it holds, the SHA-256 of the token that requests carry, and its answers."""

    models: Models
    token: str

    async def answer(self, held: Held, row: Row) -> Reply: ...


def application(replica: Answering) -> Any:
    """The ASGI application of a replica."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        _, _, name, *version = scope["path"].split("/")
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        try:
            held = replica.models.find(name, version[0] if version else None)
            reply = await replica.answer(held, ("", headers, {"body": body}))
        except NotHeldError as error:
            reply = Reply(str(error).encode(), 404)
        raw = [(k.encode(), v.encode()) for k, v in reply.headers.items()]
        await send({"type": "http.response.start", "status": int(reply.status), "headers": raw})
        await send({"type": "http.response.body", "body": reply.body})

    return app
