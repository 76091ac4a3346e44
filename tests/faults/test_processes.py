"""Processes of a server under load are killed with -9, and it is whole again by itself."""

import asyncio
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import numpy as np
import psutil
import pytest

from eideticnet.client import AsyncClient, AsyncGrpcClient, Client, GrpcClient
from eideticnet.client.call import Call
from tests.support.canary import PAUSE, Canary, same
from tests.support.served_process import alive
from tests.support.waiting import PATIENCE, until

X = np.full(6, 0.5, np.float32)


def ready_workers(server):
    workers = server.manage("GET", "/models/net").json()[0]["workers"]
    return {int(w["pid"]) for w in workers if w["status"] == "READY" and alive(int(w["pid"]))}


def one_batch(wrong, killed):
    """Whether all of these were in flight at one moment, after the kill: a worker has one batch at a time."""
    return not wrong or max(killed, *(a.sent for a in wrong)) <= min(a.ended for a in wrong)


def killed_under_load(server):
    """Kill a worker while eight clients ask, until there are two again."""
    before = until(lambda: len(found := ready_workers(server)) == 2 and found)
    with Canary(server) as canary:
        canary.answered(100)
        killed, worker = time.monotonic(), min(before)
        os.kill(worker, signal.SIGKILL)
        until(lambda: len(ready_workers(server) - {worker}) == 2)
        canary.answered(100)
    assert one_batch(canary.wrong, killed), canary.wrong


def test_a_killed_worker_fails_nobody_outside_its_batch_and_comes_back(server):
    killed_under_load(server)


def blocking(make, over, answers):
    with make() as client:
        while not over.wait(PAUSE):
            answers.extend(client.predict("net", X))


def coroutine(make, over, answers):
    async def ask():
        async with make() as client:
            while not over.is_set():
                answers.extend(await client.predict("net", X))
                await asyncio.sleep(PAUSE)

    asyncio.run(ask())


ASKING = [
    (blocking, Client, "inference"),
    (blocking, GrpcClient, "grpc_inference"),
    (coroutine, AsyncClient, "inference"),
    (coroutine, AsyncGrpcClient, "grpc_inference"),
] * 2


def unnoticed(server, kills):
    """Kill all workers at once, again and again, while two clients of every kind ask that may retry."""
    over, answers = threading.Event(), [[] for _ in ASKING]

    def more():
        enough = [len(found) + 10 for found in answers]
        until(
            lambda: (
                all(len(f) > n for f, n in zip(answers, enough, strict=True)) or any(a.done() for a in asked)
            )
        )

    with ThreadPoolExecutor(len(ASKING)) as pool:
        asked = [
            pool.submit(
                ask,
                partial(kind, server.running[where], server.home / "keys.json", retries=3, timeout=PATIENCE),
                over,
                found,
            )
            for (ask, kind, where), found in zip(ASKING, answers, strict=True)
        ]
        try:
            for _ in range(kills):
                more()
                for worker in until(lambda: ready_workers(server)):
                    with suppress(ProcessLookupError):
                        os.kill(worker, signal.SIGKILL)
            more()
        finally:
            over.set()
        assert [one.result() for one in asked] == [None] * len(ASKING)
    assert all(same(a.model_dump(), answers[0][0].model_dump()) for found in answers for a in found)


@pytest.fixture
def impatient(monkeypatch):
    """Each try but the last ends after a second; half of their patience is a minute and a half."""
    begin = Call.begin

    def begun(call, last):
        begin(call, last)
        call.ends = call.ends if last else time.monotonic() + 1

    monkeypatch.setattr(Call, "begin", begun)


def test_clients_that_may_retry_do_not_notice_that_workers_were_killed(server, impatient):
    unnoticed(server, 1)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_clients_that_may_retry_do_not_notice_thirty_times_that_workers_were_killed(server, impatient):
    unnoticed(server, 30)


@pytest.mark.parametrize(("kind", "where"), [(Client, "inference"), (GrpcClient, "grpc_inference")])
def test_a_request_that_is_never_answered_is_asked_again_within_its_time(server, kind, where, impatient):
    """One worker takes requests and answers none: they wait a while for it, and go to the other."""
    worker = psutil.Process(min(until(lambda: len(found := ready_workers(server)) == 2 and found)))
    worker.suspend()
    try:
        with (
            kind(server.running[where], server.home / "keys.json", retries=3) as client,
            ThreadPoolExecutor(12) as pool,
        ):
            asked = [pool.submit(client.predict, "net", X, deadline=PATIENCE) for _ in range(12)]
            assert all(len(one.result()) == 1 for one in asked)
    finally:
        worker.resume()


@pytest.mark.slow
def test_twenty_killed_workers_come_back_one_after_the_other(server):
    for _ in range(20):
        killed_under_load(server)


def test_clients_that_may_retry_do_not_notice_that_the_front_end_was_killed(server):
    """Nor that its keys are new, nor does it come back with other versions."""
    before, state, held = server.running, server.state(), server.held()
    over, answers = threading.Event(), []

    def ask():
        with Client(before["inference"], server.home / "keys.json", retries=1000, timeout=PATIENCE) as client:
            while not over.wait(PAUSE):
                answers.extend(client.predict("net", X))

    def more():
        enough = len(answers) + 50
        until(lambda: len(answers) > enough or any(f.done() for f in asking))

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            more()
            os.kill(before["frontend"], signal.SIGKILL)
            until(lambda: server.running["frontend"] != before["frontend"])
            more()
        finally:
            over.set()
        assert [f.result() for f in asking] == [None] * 4
    assert all(same(answer.model_dump(), answers[0].model_dump()) for answer in answers)
    assert (server.state(), server.held(), server.default()) == (state, held, "1.0")
    until(lambda: len(ready_workers(server)) == 2)
