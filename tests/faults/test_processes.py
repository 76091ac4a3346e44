"""Processes of a server under load are killed with -9, and it is whole again by itself."""

import os
import signal
import time

import numpy as np
import psutil
import pytest
from canary import Canary
from served import until

from serving.client import Client

WHOLE_SECONDS = 5.0
BATCH = 32


def ready_workers(server):
    workers = server.manage("GET", "/models/net").json()[0]["workers"]
    return {int(w["pid"]) for w in workers if w["status"] == "READY" and psutil.pid_exists(int(w["pid"]))}


def test_a_killed_worker_fails_nobody_outside_its_batch_and_is_back_within_five_seconds(server):
    before = ready_workers(server)
    assert len(before) == 2
    with Canary(server) as canary:
        time.sleep(1)
        killed, worker = time.monotonic(), min(before)
        os.kill(worker, signal.SIGKILL)
        until(lambda: len(ready_workers(server) - {worker}) == 2, WHOLE_SECONDS)
        time.sleep(0.5)
    assert len(canary.wrong) <= BATCH
    late = [a for a in canary.wrong if a.sent > killed + 0.1]
    assert late == []
    assert len([a for a in canary.asked if a.sent > killed]) > 100


@pytest.mark.slow
def test_twenty_killed_workers_fail_nobody_outside_their_batches(server):
    for _ in range(20):
        test_a_killed_worker_fails_nobody_outside_its_batch_and_is_back_within_five_seconds(server)


def test_a_killed_front_end_is_whole_again_with_the_same_versions_and_retries_bridge_it(server):
    before, state, held = server.running, server.state(), server.held()
    assert server.predict({"data": [0.5] * 6}).status_code == 200
    os.kill(before["frontend"], signal.SIGKILL)
    with Client(before["inference"], server.home / "keys.json", retries=40) as client:
        answers = client.predict("net", np.full(6, 0.5, np.float32), deadline=60)
    assert answers[0].model_version == "1.0"
    until(lambda: server.running["frontend"] != before["frontend"])
    assert (server.state(), server.held(), server.default()) == (state, held, "1.0")
    until(lambda: len(ready_workers(server)) == 2, 30)
