"""The one deployment of the application: each replica holds all models, and speaks HTTP itself.

A replica that starts, on whichever node, holds what its ``user_config`` says, or what a server keeps in the
cluster's memory. That server tells those that run to look there again, and each looks by itself now and then.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Any

import ray
from ray import serve

from eidetic_runtime.answers import encode
from eidetic_runtime.reply import Reply, Row
from eideticnet.serving.errors import ServingError
from eideticnet.serving.ray import memory
from eideticnet.serving.ray.archives import fetched
from eideticnet.serving.ray.desired import Desired
from eideticnet.serving.ray.grpc import GrpcMethods
from eideticnet.serving.ray.metrics import Told
from eideticnet.serving.ray.models import Held, Models, by_version
from eideticnet.serving.ray.web import MOST_WAITING, application

log = logging.getLogger("eidetic.replica")

NAME = "Eidetic"
_MORE = 64
"""Requests beyond ``MOST_WAITING`` that still reach a replica, which says itself that it is full, where Ray
would say so in a text of its own."""
_LARGEST_BATCH = 64

Asked = tuple[Held, Row]


@serve.deployment(
    name=NAME,
    max_ongoing_requests=MOST_WAITING + _MORE,
    max_queued_requests=_MORE,
    health_check_period_s=5,
    health_check_timeout_s=30,
    graceful_shutdown_wait_loop_s=0.2,
    graceful_shutdown_timeout_s=20,
    ray_actor_options={"num_cpus": 1},
    logging_config={"enable_access_log": False},  # a line for each request costs it a fifth
)
@serve.ingress()
class Eidetic(GrpcMethods):
    """A replica. ``models`` is what it holds, ``token`` the SHA-256 of the token that requests carry."""

    def __init__(self) -> None:
        self.token, self._server = "", ""
        self._desired: Desired | None = None
        self.models = Models(functools.partial(fetched, memory=self._in_memory))
        self._told = Told(self.models)
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __serve_build_asgi_app__(self) -> Any:
        self._begin(self._told.tell_forever())
        return application(self)

    async def reconfigure(self, config: Any) -> None:
        """Hold what ``config`` says. What can't be held leaves what there is, and is told of by ``report``;
        a replica with nothing to go on with does not start."""
        self._server = config.get("follow", "") if isinstance(config, dict) else ""
        await self._bring_to(None if self._server else Desired.read(config))
        assert self._desired is not None
        if missing := sorted(self._desired.models.keys() - set(self.models.names())):
            problems = [text for (name, _), text in self.models.problems.items() if name in missing]
            raise ServingError("; ".join(problems))

    async def look(self) -> None:
        """Begin to hold what is in the cluster's memory by now."""
        self._begin(self._bring_to(None))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def check_health(self) -> None:
        """Look again, in case nobody could say so, and try again what could not be held: a store may answer
        by now."""
        if not self._changing.locked():
            await self.look()

    async def _bring_to(self, desired: Desired | None) -> None:
        """None stands for what is in the cluster's memory, or for what there is where no server is
        followed."""
        async with self._changing:
            if desired is None:
                found = await asyncio.to_thread(memory.desired, self._server) if self._server else None
                desired = found or self._desired or Desired()
            if desired == self._desired and not self.models.problems:
                return
            self.token = desired.token_sha256
            await asyncio.to_thread(self.models.bring_to, desired)
            self._told.keep()
            self._desired = desired

    def _in_memory(self, sha256: str) -> bytes | None:
        return memory.archive(self._server, sha256) if self._server else None

    async def answer(self, held: Held, row: Row) -> Reply:
        """The reply to one request, which is answered together with others that came meanwhile."""
        held.waiting += 1
        try:
            reply: Reply = await self._answers((held, row))
            return reply
        finally:
            held.waiting -= 1

    @serve.batch(max_batch_size=_LARGEST_BATCH, batch_wait_timeout_s=0)
    async def _answers(self, asked: list[Asked]) -> list[Reply]:
        """In the loop itself: what comes meanwhile is the next batch, where another thread would be given
        one request at a time."""
        replies: list[Reply | None] = [None] * len(asked)
        for held, places in by_version(asked):
            try:
                found, batch = held.answer([asked[place][1] for place in places])
                asyncio.get_running_loop().call_soon(held.model.telemetry.batch, batch)
            except Exception as error:
                log.exception("a batch failed")
                found = [_failed(error)] * len(places)
            for place, reply in zip(places, found, strict=True):
                replies[place] = reply
        return [reply for reply in replies if reply is not None]

    async def report(self) -> dict[str, Any]:
        """What this replica holds, for who asks all of them."""
        context = serve.get_replica_context()
        return {
            "replica": context.replica_id.unique_id,
            "pid": os.getpid(),
            "node": ray.get_runtime_context().get_node_id(),
            "models": {
                name: {
                    "default": entry.default,
                    "versions": {
                        version: {"sha256": held.sha256, "waiting": held.waiting}
                        for version, held in entry.versions.items()
                    },
                }
                for name, entry in self.models.entries.items()
            },
            "problems": [[*key, text] for key, text in self.models.problems.items()],
        }


def _failed(error: Exception) -> Reply:
    memory = isinstance(error, MemoryError)
    status = HTTPStatus.INSUFFICIENT_STORAGE if memory else HTTPStatus.SERVICE_UNAVAILABLE
    message = "the server has no memory left for this" if memory else "the server failed; its log knows why"
    return Reply(encode({"error": {"kind": "internal", "field": "request", "message": message}}), status)


app = Eidetic.bind()  # type: ignore[attr-defined]
