"""FastAPI on uvicorn (uvloop, httptools) with a batcher that never waits: what has arrived while the
last batch ran is the next one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response

from benchmarks.peers.graph import MAX_BATCH, Graph

graph = Graph()
waiting: asyncio.Queue[tuple[Any, asyncio.Future[bytes]]] = asyncio.Queue()
one_thread = ThreadPoolExecutor(1)


async def batcher() -> None:
    """Take what is there, at least one; run it beside the event loop; answer."""
    loop = asyncio.get_running_loop()
    while True:
        batch = [await waiting.get()]
        while len(batch) < MAX_BATCH and not waiting.empty():
            batch.append(waiting.get_nowait())
        answers = await loop.run_in_executor(one_thread, graph.answers, [row for row, _ in batch])
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the batcher running while the server does."""
    task = asyncio.create_task(batcher())
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/inference")
async def inference(request: Request) -> Response:
    """One instance in, one answer out."""
    json = request.headers["content-type"] == "application/json"
    row = graph.decode(await request.body(), json)
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    waiting.put_nowait((row, future))
    return Response(await future, media_type="application/json")


if __name__ == "__main__":
    port = int(os.environ["EIDETIC_PORT"])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)
