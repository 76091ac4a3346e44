"""Clients that go away, dawdle, or are too many cost the others nothing and never hang."""

import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.canary import KNOWN, Canary
from tests.support.java_heap import collected
from tests.support.served_process import asleep
from tests.support.waiting import PATIENCE, until

CROWD = 250  # more than a queue of 100, and what two workers hold
DEADLINE_SECONDS = 2.0


def request(server, body=b"", length=None, kind="application/octet-stream"):
    """The bytes of a request, whose body may be shorter than it says."""
    key = server.keys()["inference"]
    head = (
        f"POST /predictions/net HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n"
    )
    return head.encode() + body


def connected(server):
    port = int(server.running["inference"].rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


def pids(server):
    return {worker.pid for worker in server.workers()}


def test_clients_that_disconnect_at_any_byte_disturb_nobody(server):
    rng, before, whole = random.Random(0), pids(server), request(server, bytes(24))
    with Canary(server, 4) as canary:
        for _ in range(300):
            with connected(server) as s:
                s.sendall(whole[: rng.randrange(1, len(whole) + 1)])
                if rng.random() < 0.5:  # a reset instead of a polite end
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        canary.answered(50)
    assert canary.wrong == []
    assert pids(server) == before


def test_half_open_and_dripping_connections_keep_nobody_from_an_answer(server):
    """TorchServe lets a slow client wait for as long as it likes: each costs one connection."""
    slow, whole = [connected(server) for _ in range(500)], request(server, bytes(24))
    before = collected(server.running["frontend"])
    try:
        with Canary(server, 4) as canary:
            for i in range(20):
                for s in slow:
                    s.sendall(whole[i : i + 1])
                canary.answered(4)  # between each byte of theirs and the next
        assert canary.wrong == []
        held = collected(server.running["frontend"])
        assert held - before < 500 * 100e3  # what one of them costs Java
        for s in slow[:5]:  # still there, and answered as soon as they are done
            s.sendall(whole[20:])
            assert s.recv(100).startswith(b"HTTP/1.1 200")
    finally:
        for s in slow:
            s.close()


@pytest.mark.parametrize("deadline", [False, True])
def test_a_full_queue_and_an_expired_request_are_answered(server, deadline):
    """While the workers hang, who finds the queue full is told so at once; the others once they go on."""
    soon = int((time.time() + DEADLINE_SECONDS) * 1000)
    extra = {"deadline_ms": soon} if deadline else {}
    with ThreadPoolExecutor(CROWD) as pool, crowd(server) as client:
        with asleep(server.workers()):
            bodies = [{"data": KNOWN[n % len(KNOWN)], **extra} for n in range(CROWD)]
            asked = [pool.submit(client.post, "", json=body) for body in bodies]
            refused = until(lambda: len(d := [a for a in asked if a.done()]) > 10 and d)
            until(lambda: not deadline or time.time() * 1000 > soon)
        answers = [a.result() for a in asked]  # or httpx's error when PATIENCE is over
    assert {a.result().status_code for a in refused} == {503}
    assert {a.status_code for a in answers} == ({408, 503} if deadline else {200, 503})
    assert all("expired" in a.text for a in answers if a.status_code == 408)


def crowd(server):
    """One client of many connections: making each its own takes longer than its request."""
    return httpx.Client(
        base_url=f"{server.running['inference']}/predictions/net",
        headers={"Authorization": f"Bearer {server.keys()['inference']}"},
        limits=httpx.Limits(max_connections=CROWD),
        timeout=PATIENCE,
        trust_env=False,
    )
