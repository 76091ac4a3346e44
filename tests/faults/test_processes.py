"""Processes of a server under load are killed with -9, and it is whole again by itself."""

import os
import signal
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
import psutil
import pytest
from canary import Canary, same
from served import until

from serving.client import Client

WHOLE_SECONDS = 5.0


def ready_workers(server):
    workers = server.manage("GET", "/models/net").json()[0]["workers"]
    return {int(w["pid"]) for w in workers if w["status"] == "READY" and psutil.pid_exists(int(w["pid"]))}


def one_batch(wrong, killed):
    """Whether all of these were in flight at one moment, after the kill: a worker has one batch at a time."""
    return not wrong or max(killed, *(a.sent for a in wrong)) <= min(a.ended for a in wrong)


def killed_under_load(server):
    """Kill a worker while eight clients ask; the seconds until there are two again."""
    before = until(lambda: len(found := ready_workers(server)) == 2 and found)
    with Canary(server) as canary:
        canary.answered(100)
        killed, worker = time.monotonic(), min(before)
        os.kill(worker, signal.SIGKILL)
        until(lambda: len(ready_workers(server) - {worker}) == 2)
        seconds = time.monotonic() - killed
        canary.answered(100)
    assert one_batch(canary.wrong, killed), canary.wrong
    return seconds


def test_a_killed_worker_fails_nobody_outside_its_batch_and_comes_back(server):
    assert killed_under_load(server)


@pytest.mark.slow
def test_twenty_killed_workers_are_back_within_five_seconds(server):
    seconds = [killed_under_load(server) for _ in range(20)]
    print("seconds until whole:", *(f"{s:.1f}" for s in sorted(seconds)))
    assert statistics.median(seconds) < WHOLE_SECONDS


def test_clients_that_may_retry_do_not_notice_that_the_front_end_was_killed(server):
    """Nor that its keys are new, nor does it come back with other versions."""
    before, state, held = server.running, server.state(), server.held()
    over, answers = threading.Event(), []

    def ask():
        with Client(before["inference"], server.home / "keys.json", retries=200, timeout=60) as client:
            while not over.is_set():
                answers.extend(client.predict("net", np.full(6, 0.5, np.float32)))

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
    assert all(same(asdict(answer), asdict(answers[0])) for answer in answers)
    assert (server.state(), server.held(), server.default()) == (state, held, "1.0")
    until(lambda: len(ready_workers(server)) == 2)
