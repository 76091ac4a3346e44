"""A server is kept alive, says whether it is ready, stops when it is told, and is one on its home."""

import os
import re
import signal
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from eideticnet.serving.default_engine import NAME
from eideticnet.serving.deploys.connection import connect
from eideticnet.serving.deploys.deploy import deploy
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.running import find
from eideticnet.serving.supervise.launch import ServerOptions
from eideticnet.serving.supervise.metrics import WorkerMetrics
from eideticnet.serving.supervise.start import prepared
from eideticnet.serving.supervise.supervisor import Supervisor
from eideticnet.serving.supervise.watch import Watch
from tests.support.example_counts import often
from tests.support.interrupted_deploys import TERMS
from tests.support.own_ports import own_ports
from tests.support.served_process import Served, alive, serving
from tests.support.waiting import PATIENCE, until

ROW = {"data": [0.5] * 6}


@pytest.fixture(scope="module")
def server(versions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("supervised")
    options = "--workers", 2, "--stop-seconds", PATIENCE
    with Served(folder / "home", versions["1.0"], *options) as running:
        yield running


def ready(server):
    try:
        return server.control("/ready").status_code == 200
    except httpx.HTTPError:
        return False


def test_the_control_port_tells_liveness_readiness_and_metrics(server):
    assert server.control("/live").text == "live\n"
    assert until(lambda: ready(server))
    metrics = server.control("/metrics").text
    assert 'eidetic_default{model="net",version="1.0"} 1.0' in metrics
    assert 'eidetic_queue_depth{model="net",version="1.0"} 0.0' in metrics
    assert 'eidetic_workers{model="net",version="1.0"} 2.0' in metrics
    assert server.control("/else").status_code == 404
    assert server.control("/openapi.json").json()["servers"] == [{"url": server.running["inference"]}]
    assert (
        httpx.post(server.running["control"] + "/live", timeout=PATIENCE, trust_env=False).status_code == 405
    )


def test_the_tokens_are_readable_to_the_owner_alone_and_not_in_what_was_printed(server):
    for name in ("keys.json", "authorization.txt"):
        assert stat.S_IMODE((server.home / name).stat().st_mode) == 0o600
    assert all(key not in server.output() for key in server.keys().values())


def test_only_archives_of_the_store_can_be_registered(server, versions):
    for url in (versions["2.0"].as_uri(), "http://127.0.0.1:1/net-2.0.mar", "../keys.json"):
        with Home(server.home).changing():
            assert server.manage("POST", "/models", url=url).status_code == 404


def test_a_second_server_on_one_home_is_refused_and_the_first_is_named(server):
    done = serving("serve", "--home", server.home)
    assert done.returncode == 1
    assert f"already: process {server.process.pid}; eidetic deploy ARCHIVE --home" in done.stderr
    assert server.predict(ROW).status_code == 200


def test_a_killed_front_end_is_whole_again_on_the_same_address(server):
    before, keys = server.running, server.keys()
    os.kill(before["frontend"], signal.SIGKILL)
    until(lambda: server.running["frontend"] != before["frontend"])
    until(lambda: ready(server))
    assert server.running["inference"] == before["inference"]
    assert server.keys() != keys
    assert server.predict(ROW).json()["model_version"] == "1.0"
    until(lambda: len(server.workers()) == 2)
    assert "eidetic_frontend_restarts_total 1.0" in server.control("/metrics").text
    assert not Path(before["folder"]).exists()
    assert "TorchServe ended: it is started again" in server.output()


class Interrupted(Watch):
    """Ctrl-C comes while the server, which is up by now, is looked at for the first time."""

    def look(self):
        raise KeyboardInterrupt


def test_an_interrupt_at_the_end_of_starting_leaves_nothing_behind(versions, tmp_path):
    home, options = Home(tmp_path / "home"), ServerOptions()
    with prepared(home, [versions["1.0"]], options):
        starting = Supervisor(home, options, own_ports(), Interrupted(NAME), WorkerMetrics(home.metrics))
        with pytest.raises(KeyboardInterrupt), starting:
            pass
        assert not starting.process.running
        assert not starting.process.folder.exists()
    assert not home.running.exists()


def test_a_stop_finishes_what_is_in_flight_and_leaves_nothing_behind(server):
    workers, running = server.workers(), server.running
    processes = [*workers, psutil.Process(running["frontend"])]
    for worker in workers:
        worker.suspend()
    with ThreadPoolExecutor(100) as pool:
        begun = server.begin(pool, ROW, "1.0")
        stopped = pool.submit(server.command, "stop", "--seconds", PATIENCE)
        until(lambda: server.control("/ready").status_code == 503)
        assert not any(answer.done() for answer in begun)
        for worker in workers:
            worker.resume()
        assert {answer.result().status_code for answer in begun} == {200}
        assert stopped.result().returncode == 0, stopped.result().stderr
    assert server.process.wait(PATIENCE) == 0
    until(lambda: not any(alive(process.pid) for process in processes))
    assert not Path(running["folder"]).exists()
    assert not (server.home / "server.json").exists()


def test_a_stop_that_can_not_wait_longer_says_what_was_left_and_is_no_failure(versions, tmp_path):
    with Served(tmp_path / "home", versions["1.0"], "--stop-seconds", 1) as server:
        (worker,) = server.workers()
        worker.suspend()
        with ThreadPoolExecutor(100) as pool:
            begun = server.begin(pool, ROW, "1.0")
            server.process.terminate()
            for answer in begun:  # TorchServe may still say that the worker died
                assert isinstance(answer.exception(), httpx.HTTPError) or answer.result().status_code == 500
        assert server.process.wait(PATIENCE) == 0
        assert re.search(
            r"net 1\.0 is stopped at work: [1-9]\d* waiting, 1 workers busy",
            " ".join(server.output().split()),
        )
        until(lambda: not alive(worker.pid))


def test_a_stop_under_traffic_that_goes_on_fails_nothing_that_was_begun(versions, tmp_path):
    """Each client sends its next request when it has an answer, so the server never falls quiet. It is told
    503 once it is stopping, and no connection at the end."""
    with Served(tmp_path / "home", versions["1.0"], "--stop-seconds", PATIENCE) as server:
        running, headers = server.running, {"Authorization": f"Bearer {server.keys()['inference']}"}
        until(lambda: ready(server))

        def ask(answers):
            with httpx.Client(
                base_url=running["inference"], headers=headers, timeout=PATIENCE, trust_env=False
            ) as http:
                while True:
                    try:
                        answers.append(http.post("/predictions/net", json=ROW, timeout=PATIENCE).status_code)
                    except httpx.HTTPError as error:
                        return repr(error)

        told = [[] for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(ask, answers) for answers in told]
            until(lambda: all(200 in answers for answers in told))
            done = server.command("stop", "--seconds", PATIENCE)
            ends = [client.result() for client in clients]
    assert done.returncode == 0, done.stderr
    assert "is stopped at work" not in server.output()
    for codes, end in zip(told, ends, strict=True):
        assert {200} <= set(codes) <= {200, 503}, end
        assert codes == sorted(codes)
    assert any(503 in codes for codes in told)


def test_a_front_end_that_hangs_is_started_again(versions, tmp_path):
    with Served(tmp_path / "home", versions["1.0"], "--silence-seconds", 5) as server:
        before = server.running
        os.kill(before["frontend"], signal.SIGSTOP)
        until(lambda: server.running["frontend"] != before["frontend"])
        until(lambda: ready(server))
        assert server.predict(ROW).status_code == 200
        assert "TorchServe has answered nothing for" in server.output().replace("\n", " ")


@pytest.mark.slow
def test_a_stop_of_a_front_end_that_hangs_is_in_time(versions, tmp_path):
    with Served(tmp_path / "home", versions["1.0"]) as server:
        os.kill(server.running["frontend"], signal.SIGSTOP)
        assert server.command("stop", "--seconds", PATIENCE).returncode == 0


@pytest.mark.slow
def test_a_model_whose_workers_can_not_start_any_more_is_loaded_again(versions, tmp_path):
    """What TorchServe starts workers by is broken, as by a failed update; a new TorchServe makes its own."""
    with Served(tmp_path / "home", versions["1.0"], "--startup-seconds", 60) as server:
        before, python = server.running, Path(server.running["folder"]) / "python"
        python.write_text("#!/bin/sh\nexit 1\n")
        for worker in server.workers():
            worker.kill()
        until(lambda: server.running["frontend"] != before["frontend"])
        until(lambda: ready(server))
        assert "no worker of any model has been ready for" in server.output().replace("\n", " ")


@pytest.mark.parametrize(
    ("step", "version"), often([("register", "1.0"), ("commit", "2.0")], [("commit", "2.0")])
)
def test_a_server_killed_in_the_middle_of_a_deploy_comes_back_with_what_was_committed(
    versions, tmp_path, step, version
):
    with Served(tmp_path / "home", versions["1.0"]) as killed:
        home, running = Home(killed.home), killed.running
        with connect(home, find(home)) as connection:
            steps = deploy(connection, versions["2.0"], TERMS)
            while next(steps).name != step:
                pass
            killed.kill()
            steps.close()
        assert (killed.home / "server.json").exists()
    with Served(tmp_path / "home") as again:
        assert again.predict(ROW).json()["model_version"] == version
        assert set(again.held()) == {version}
        assert not Path(running["folder"]).exists()
        until(lambda: not alive(running["frontend"]))


FOR_EVER = "import eideticnet.serving.supervise.supervisor as s; s._SECONDS_FOR_THEM = 1e6"


@pytest.mark.slow
def test_a_server_that_can_not_be_kept_alive_gives_up_and_says_why(versions, tmp_path):
    with Served(tmp_path / "home", versions["1.0"], change=FOR_EVER) as server:
        killed = set()
        while server.process.poll() is None:
            with suppress(FileNotFoundError):
                if (frontend := server.running["frontend"]) not in killed:
                    os.kill(frontend, signal.SIGKILL)
                    killed.add(frontend)
            time.sleep(0.05)
        assert len(killed) == 6
        assert server.process.wait(PATIENCE) == 1
        assert "TorchServe ended 6 times within 1000000 s; the end of its log" in server.output()
