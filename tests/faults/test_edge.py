"""HAProxy and the engine behind it die, hang and are renewed: nobody gets silence, almost nobody an error."""

import os
import shutil
import signal
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from eideticnet.client import Client, GrpcClient
from tests.support.served_process import Served, asleep
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.slow
X = np.full(6, 0.5, np.float32)
ROW = {"data": [0.5] * 6}


def pair(folder, name):
    """A certificate of this machine, and its key."""
    files = folder / f"{name}-cert.pem", folder / f"{name}-key.pem"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-addext", names]
    output = ["-subj", f"/CN={name}", "-out", files[0], "-keyout", files[1]]
    subprocess.run([*command, *output], check=True, capture_output=True)
    files[1].chmod(0o600)
    return files


@pytest.fixture(scope="module")
def shared(archives, tmp_path_factory):
    folder = tmp_path_factory.mktemp("edge")
    with Served(folder / "home", archives["1"], "--edge", "--silence-seconds", 4) as running:
        yield running


@pytest.fixture
def server(shared):
    yield shared
    until(lambda: shared.control("/ready").status_code == 200)


def haproxy(server):
    """The process."""
    children = psutil.Process(server.running["pid"]).children()
    return next(child for child in children if "haproxy" in child.name())


class Asking:
    """Clients of every kind that never ask again: what they got."""

    def __init__(self, server, many=2, retries=0):
        self._server, self._retries, self._over = server, retries, threading.Event()
        self.answers, self.errors = [], []
        kinds = [(Client, "inference"), (GrpcClient, "grpc_inference")] * many
        self._threads = [threading.Thread(target=self._ask, args=kind) for kind in kinds]

    def _ask(self, kind, where):
        verify = self._server.running["certificate"]
        trusted = {}
        if verify:
            trusted = {"ca": Path(verify)} if "grpc" in where else {"verify": self.trust}
        address, keys = self._server.running[where], self._server.home / "keys.json"
        with kind(address, keys, retries=self._retries, timeout=PATIENCE, **trusted) as client:
            while not self._over.is_set():
                try:
                    self.answers.extend(client.predict("net", X))
                except Exception as error:
                    self.errors.append((kind.__name__, str(error)))

    def more(self, many=50):
        enough = len(self.answers) + many
        until(lambda: len(self.answers) > enough)

    def __enter__(self):
        if self._server.running["certificate"]:
            self.trust = ssl.create_default_context(cafile=self._server.running["certificate"])
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self._over.set()
        for thread in self._threads:
            thread.join()


def test_who_never_asks_again_loses_nothing_when_the_engine_is_killed(server):
    """What was on its way is asked again, what comes waits; the keys that clients have stay the same."""
    before, keys = server.running["frontend"], server.keys()
    with Asking(server) as asking:
        for _ in range(2):
            asking.more()
            os.kill(before, signal.SIGKILL)
            until(lambda: server.running["frontend"] != before)  # noqa: B023
            before = server.running["frontend"]
            asking.more()
    assert asking.errors == []
    assert server.keys() == keys


def test_an_engine_that_hangs_is_started_again_and_its_requests_are_answered(server):
    engine = psutil.Process(server.running["frontend"])
    with Asking(server) as asking:
        asking.more()
        engine.suspend()
        until(lambda: server.running["frontend"] != engine.pid)
        asking.more()
    assert asking.errors == []


def test_a_request_too_large_to_keep_gets_a_503_when_the_engine_is_killed_and_waits_when_it_comes_later(
    server,
):
    body = b'{"data": [0, 0, 0, 0, 0, 0]}' + b" " * 100_000
    headers = {"Authorization": f"Bearer {server.keys()['inference']}", "Content-Type": "application/json"}
    url, before = server.running["inference"] + "/predictions/net", server.running["frontend"]

    def post():
        return httpx.post(url, content=body, headers=headers, timeout=PATIENCE, trust_env=False)

    with ThreadPoolExecutor(4) as pool:
        with asleep(server.workers()):
            lost = [pool.submit(post) for _ in range(2)]
            time.sleep(1)
            os.kill(before, signal.SIGKILL)
        later = [pool.submit(post) for _ in range(2)]
        answers = [one.result() for one in lost]
        assert [answer.json()["error"]["kind"] for answer in answers] == ["unavailable"] * 2
        assert [answer.status_code for answer in answers] == [503] * 2
        assert [one.result().status_code for one in later] == [200] * 2


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_clients_that_may_retry_do_not_notice_that_haproxy_died_or_hangs(server, end):
    before = haproxy(server)
    with Asking(server, retries=1000) as asking:
        asking.more()
        before.send_signal(end)
        until(lambda: not before.is_running() or before.status() == psutil.STATUS_ZOMBIE)
        asking.more()
    assert asking.errors == []
    assert "eidetic_edge_restarts_total" in server.control("/metrics").text


def test_while_the_engine_can_not_come_back_requests_wait_some_seconds_and_get_a_503(archives, tmp_path):
    with Served(tmp_path / "home", archives["1"], "--edge") as server:
        store, aside = server.home / "store", server.home / "aside"
        shutil.move(store, aside)
        os.kill(server.running["frontend"], signal.SIGKILL)
        until(lambda: server.control("/ready").status_code == 503)
        began = time.monotonic()
        answer = server.predict(ROW)
        assert 10 < time.monotonic() - began < 60
        assert (answer.status_code, answer.json()["error"]["kind"]) == (503, "unavailable")
        shutil.move(aside, store)
        until(lambda: server.control("/ready").status_code == 200)
        assert server.predict(ROW).status_code == 200


def test_a_killed_server_leaves_no_haproxy(archives, tmp_path):
    with Served(tmp_path / "home", archives["1"], "--edge") as server:
        process = haproxy(server)
        server.kill()
        until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def test_at_the_stop_what_has_begun_is_answered_and_what_comes_gets_a_503(archives, tmp_path):
    with Served(tmp_path / "home", archives["1"], "--edge") as server:
        with Asking(server) as asking:
            asking.more()
            server.process.terminate()
            assert server.process.wait(PATIENCE) == 0
        told = {error for _, error in asking.errors}
        assert any("503" in error for error in told)
        assert all("503" in error or "no answer from" in error for error in told), told


def test_a_new_certificate_is_used_without_a_lost_request(archives, tmp_path):
    certificate, key = pair(tmp_path, "first")
    tls = ("--tls-cert", certificate, "--tls-key", key)
    with Served(tmp_path / "home", archives["1"], "--edge", *tls) as server:
        port = int(server.running["inference"].rpartition(":")[2])
        before = ssl.get_server_certificate(("127.0.0.1", port))
        assert before.strip() == certificate.read_text().strip()
        with Asking(server) as asking:
            asking.more()
            key.write_text("half")  # written one after the other, and not at once
            time.sleep(2)
            for old, new in zip((key, certificate), reversed(pair(tmp_path, "second")), strict=True):
                old.write_bytes(new.read_bytes())
            until(lambda: ssl.get_server_certificate(("127.0.0.1", port)) != before)
            asking.more()  # on the connections that there were
        assert asking.errors == []
        time.sleep(5)
        assert server.control("/ready").status_code == 200
