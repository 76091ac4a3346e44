"""Desired state that is missing is not an empty one: what is loaded goes on, and the server says why."""

import os
import shutil
import signal
import time
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import pytest

from eideticnet.serving.errors import Unavailable
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.state import State
from eideticnet.serving.home.store import remove_unneeded
from eideticnet.serving.supervise.trouble import Trouble
from eideticnet.serving.supervise.watch import Watch
from tests.support.served_process import Served
from tests.support.waiting import PATIENCE, until

ROW = {"data": [0.5] * 6}
PIPE = "pipe"
LOOKS = 2.5
"""Seconds within which the supervisor looks at least twice."""


@pytest.fixture(scope="module")
def server(versions, tmp_path_factory):
    with Served(tmp_path_factory.mktemp("desired") / "home", versions["1.0"]) as running:
        yield running


@contextmanager
def replaced(path, text=None):
    """``path`` moved away meanwhile, and another file with ``text``, or a pipe, in its place."""
    away = path.with_name(f"{path.name}.away")
    path.rename(away)
    try:
        if text == PIPE:
            os.mkfifo(path)
        elif text is not None:
            path.write_text(text)
        yield
    finally:
        if text is not None:
            path.unlink()
        away.rename(path)


def readiness(control):
    """What is said of it, asked where no home tells the address."""
    return httpx.get(control + "/ready", timeout=PATIENCE, trust_env=False).text


@pytest.mark.parametrize(
    "text",
    [
        None,
        PIPE,
        pytest.param('{"schema": 2, "models": {}}', marks=pytest.mark.slow),
        pytest.param('{"schema": 1, "models": {}}', marks=pytest.mark.slow),
    ],
)
def test_a_server_whose_state_is_gone_or_can_not_be_read_keeps_what_is_loaded_and_is_not_ready(server, text):
    state, told = server.home / "state.json", len(server.output())
    until(lambda: server.control("/ready").status_code == 200)
    with replaced(state, text):
        answer = server.control("/ready")
        assert (answer.status_code, str(state) in answer.text) == (503, True)
        time.sleep(LOOKS)
        assert server.predict(ROW).json()["model_version"] == "1.0"
        assert server.command("deploy", "x.mar").returncode == 1
        assert list((server.home / "store").glob("*.mar"))
    until(lambda: "ready again" in server.output()[told:])
    new = server.output()[told:].replace("\n", " ")
    assert new.count(f"not ready: {state}") == 1
    assert "Traceback" not in new


def test_a_state_that_names_another_model_than_its_archive_is_told_and_nothing_is_unloaded(server):
    state = server.home / "state.json"
    with replaced(state, state.read_text().replace('"net"', '"other"')):
        until(lambda: "other 1.0, and it holds net 1.0" in server.control("/ready").text)
        time.sleep(LOOKS)
        assert server.control("/ready").status_code == 503
        assert server.predict(ROW).json()["model_version"] == "1.0"
    until(lambda: server.control("/ready").status_code == 200)


def test_a_folder_that_stands_in_for_the_home_stays_empty_and_the_true_home_is_taken_back(server):
    control = server.running["control"]
    with replaced(server.home):
        server.home.mkdir()
        until(lambda: "it holds no state.json" in readiness(control))
        time.sleep(LOOKS)
        assert not list(server.home.iterdir())
        server.home.rmdir()
    until(lambda: server.control("/ready").status_code == 200)


def test_a_home_that_was_moved_costs_no_answer_and_java_is_started_again_once_it_is_back(server):
    running, control, keys = server.running, server.running["control"], server.keys()
    away = server.home.with_name("away")
    server.home.rename(away)
    server.home = away
    try:
        time.sleep(LOOKS)
        assert server.predict(ROW).status_code == 200
        (worker,) = server.workers()
        worker.kill()  # the next one finds its files where they are now
        until(lambda: server.answers(ROW))
        os.kill(running["frontend"], signal.SIGKILL)
        until(lambda: "can't be started again yet" in server.control("/ready").text)
        time.sleep(LOOKS)
        assert server.process.poll() is None
    finally:
        server.home = away.with_name("home")
        assert not server.home.exists()  # nobody made it anew
        away.rename(server.home)
    until(lambda: server.keys() != keys and server.control("/ready").status_code == 200)
    assert server.running["control"] == control
    assert server.predict(ROW).json()["model_version"] == "1.0"
    server.tells_once("can't be started again yet")


@pytest.mark.slow
def test_a_home_in_the_place_of_ours_is_left_to_the_server_that_runs_there_and_a_copy_is_ours(server):
    until(lambda: server.control("/ready").status_code == 200)
    control = server.running["control"]
    with replaced(server.home):
        other = Home(server.home)
        other.create()
        shutil.copy(server.home.with_name("home.away") / "state.json", other.state)
        with other.serving():
            taken = f"a server runs in {server.home} already: process {os.getpid()}"
            until(lambda: taken in readiness(control))
            time.sleep(LOOKS)
            assert not other.keys.exists()
        shutil.rmtree(server.home)
    until(lambda: server.control("/ready").status_code == 200)
    away = server.home.with_name("original")
    server.home.rename(away)
    shutil.copytree(away, server.home, ignore=shutil.ignore_patterns("run"))
    until(Home(server.home).served)
    until(lambda: server.control("/ready").status_code == 200)
    assert server.predict(ROW).status_code == 200
    shutil.rmtree(server.home)
    away.rename(server.home)  # the first one again, and its lock is still held here
    until(lambda: server.control("/ready").status_code == 200)


def told(server):
    return server.output().replace("\n", " ")


@pytest.mark.slow
def test_an_archive_that_is_gone_when_java_crashes_is_waited_for(server):
    (archive,) = (server.home / "store").glob("*.mar")
    with replaced(archive):
        time.sleep(LOOKS)
        until(lambda: server.control("/ready").status_code == 200)  # what is loaded answers
        until(lambda: f"an archive is gone: [Errno 2] No such file or directory: '{archive}'" in told(server))
        os.kill(server.running["frontend"], signal.SIGKILL)
        until(lambda: archive.name in server.control("/ready").text or "1.0" in server.control("/ready").text)
        assert server.control("/live").status_code == 200
    until(lambda: server.control("/ready").status_code == 200)


def test_a_private_folder_that_lost_what_workers_are_started_by_is_made_anew(server):
    before = server.running
    shutil.rmtree(server.home / "run")
    until(lambda: server.running["frontend"] != before["frontend"])
    until(lambda: server.control("/ready").status_code == 200)
    assert f"of TorchServe's folder {before['folder']} is gone" in server.output().replace("\n", " ")


@pytest.mark.parametrize("harm", ["missing", "folder", "pipe", "link", "empty", "binary", "deep", "list"])
def test_whatever_is_in_the_place_of_a_state_is_never_taken_for_an_empty_one(harm, tmp_path):
    home = Home(tmp_path)
    home.create()
    (home.store / "net.mar").touch()
    content = {"empty": b"", "binary": b"\xff\x00", "deep": b"[" * 10**5, "list": b"[]"}
    if harm == "folder":
        home.state.mkdir()
    elif harm == "pipe":
        os.mkfifo(home.state)
    elif harm == "link":
        home.state.symlink_to("nowhere")
    elif harm in content:
        home.state.write_bytes(content[harm])
    for read in (State.known, State.load) if harm != "missing" else (State.known,):
        with pytest.raises(Unavailable, match=str(home.state)):
            remove_unneeded(home.store, read(home.state))
    assert (home.store / "net.mar").exists()


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("nobody thought of it")]
)
def test_no_error_leaves_a_look_at_the_server_and_readiness_tells_it(error, caplog):
    def models(seconds):
        raise error

    watch = Watch("An engine")
    state = SimpleNamespace(models={"net": SimpleNamespace(default=None)})
    watch.point_at(SimpleNamespace(management=SimpleNamespace(models=models), state=lambda: state))
    watch.look()
    assert watch.unready() == [f"model net: {error if isinstance(error, OSError) else repr(error)}"]
    assert len([r for r in caplog.records if "not ready" in r.getMessage()]) == 1


def test_a_trouble_is_told_once_until_it_is_over(caplog):
    trouble = Trouble()
    for error in (OSError("full"), OSError("full"), None, OSError("full"), ValueError("odd")):
        with trouble.noted():
            if error is not None:
                raise error
    told = [record.getMessage() for record in caplog.records]
    assert told == ["full", "full", "ValueError('odd')"]
    assert [bool(record.exc_info) for record in caplog.records] == [False, False, True]
