"""A model goes from a server that serves others; and what is said of a server that only starts."""

import json
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from eideticnet.serving.home.home import Home
from eideticnet.serving.home.state import State
from eideticnet.serving.home.store import admit
from tests.support.own_ports import with_own_ports
from tests.support.served_process import MODEL, ROOT, Served, changed, serving
from tests.support.waiting import PATIENCE, until

ROW = {"data": [0.5] * 6}


def ask(server, model, over, row, got):
    """Send requests to ``model`` one after another; their statuses go to ``got``."""
    headers = {"Authorization": f"Bearer {server.keys()['inference']}"}
    url = f"{server.running['inference']}/predictions/{model}"
    with httpx.Client(headers=headers, timeout=PATIENCE, trust_env=False) as http:
        while not over.is_set():
            got.append(http.post(url, json=row).status_code)


def test_a_model_is_removed_under_traffic_and_the_others_answer_as_before(versions, archive, tmp_path):
    with Served(tmp_path / "home", versions["1.0"], archive.path) as server:
        over, kept, gone = threading.Event(), [[], []], [[], []]
        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask, server, MODEL, over, ROW, got) for got in kept]
            asking += [pool.submit(ask, server, archive.name, over, {"data": [0] * 64}, got) for got in gone]
            try:
                until(lambda: all(200 in got for got in kept + gone))
                done = server.command("remove", "--name", archive.name)
                until(lambda: all(404 in got for got in gone))
            finally:
                over.set()
            assert [one.result() for one in asking] == [None] * 4
        assert done.returncode == 0, done.stderr
        assert json.loads(Path(done.stdout.strip()).read_text())["outcome"] == "done"
        assert {status for statuses in kept for status in statuses} == {200}
        for statuses in gone:  # answered, then refused for ever
            assert set(statuses) <= {200, 503, 404}
            assert statuses == sorted(statuses, key=[200, 503, 404].index)
        assert list(server.state()) == [MODEL]
        assert len(list((server.home / "store").glob("*.mar"))) == 1
        until(lambda: server.control("/ready").status_code == 200)
        last = server.command("remove", "--name", MODEL)
        assert (last.returncode, "only model" in last.stderr) == (1, True)
        other = server.command("remove", "--name", "cats")
        assert "no model 'cats' is served here; there are: net" in other.stderr


def test_a_model_is_removed_from_the_folder_of_a_server_that_does_not_run(versions, archive, tmp_path):
    home = Home(tmp_path / "home")
    home.create()
    state = State()
    for path in (versions["1.0"], archive.path):
        stored = admit(path, home.store, allow_torch=False)
        state = state.replaced(stored.archive.name, stored.version)
    state.write(home.state)
    assert serving("remove", "--name", archive.name, "--home", home.root).returncode == 0
    assert list(State.load(home.state).models) == [MODEL]
    assert len(list(home.store.glob("*.mar"))) == 1
    assert "only model" in serving("remove", "--name", MODEL, "--home", home.root).stderr


STARTS = """import signal; from eideticnet.serving.torchserve import engine
engine._Started = lambda *a, **k: signal.pause()"""
"""As long as is looked."""


def test_a_server_that_starts_is_told_and_can_be_stopped(versions, tmp_path):
    home = tmp_path / "home"
    command = [*changed(STARTS), "serve", str(versions["1.0"]), "--home", str(with_own_ports(home))]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        until((home / "state.json").exists)
        found = serving("status", "--home", home, "--json")
        assert found.returncode == 3
        assert json.loads(found.stdout)["starting"]["pid"] == process.pid
        assert f"a server is starting: process {process.pid}" in serving("status", "--home", home).stdout
        refused = serving("deploy", versions["2.0"], "--home", home)
        assert f"is starting in {home} (process {process.pid}" in refused.stderr
        assert serving("stop", "--home", home).stdout == f"stopped process {process.pid}\n"
        assert process.wait(PATIENCE) is not None
    finally:
        process.kill()
        process.communicate()
    assert not Home(home).served()


@pytest.mark.parametrize("command", ["stop", "status"])
def test_where_no_server_runs_or_starts_that_is_said(command, tmp_path):
    found = serving(command, "--home", tmp_path)
    assert "no server runs" in found.stdout + found.stderr
