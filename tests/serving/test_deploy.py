"""One version takes over from another on a real server, under requests, or nothing changes at all."""

import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from eideticnet.export.archive.reader import read_archive
from eideticnet.serving.deploys.connection import Timeouts, connect
from eideticnet.serving.deploys.deploy import deploy
from eideticnet.serving.deploys.reconcile import settle
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.running import find
from eideticnet.serving.home.state import Model, State
from eideticnet.serving.home.store import admit, remove_unneeded
from tests.support.archived_networks import edited
from tests.support.canary import PAUSE
from tests.support.interrupted_deploys import TERMS, broken_off
from tests.support.served_process import MODEL, Served
from tests.support.smallest_archive import flat_handler
from tests.support.waiting import PATIENCE, until

ROW = {"data": [0.5] * 6}
UNMEASURED = "--accept-unmeasured-routing"


@pytest.fixture(scope="module")
def server(versions, tmp_path_factory):
    with Served(tmp_path_factory.mktemp("deploys") / "home", versions["1.0"]) as running:
        yield running


@pytest.fixture
def first(server, versions):
    """The server with version 1.0 as its default and nothing before it."""
    yield server
    home = Home(server.home)
    with opened(server) as connection, home.changing():
        version = admit(versions["1.0"], home.store, allow_torch=False).version
        state = State(models={MODEL: Model(default=version)})
        state.write(home.state)
        settle(connection, state)
        remove_unneeded(home.store, state)


@contextmanager
def opened(server):
    home = Home(server.home)
    with connect(home, find(home)) as connection:
        yield connection


@contextmanager
def asking(server, clients):
    """Clients that ask all the time; what they got as (sent, answered, status, version)."""
    over, got = threading.Event(), []
    url = f"{server.running['inference']}/predictions/{MODEL}"
    headers = {"Authorization": f"Bearer {server.keys()['inference']}"}

    def ask():
        with httpx.Client(headers=headers, timeout=PATIENCE, trust_env=False) as http:
            while not over.wait(PAUSE):
                sent = time.monotonic()
                response = http.post(url, json=ROW)
                found = response.json().get("model_version") if response.is_success else response.text
                got.append((sent, time.monotonic(), response.status_code, found))

    with ThreadPoolExecutor(clients) as pool:
        futures = [pool.submit(ask) for _ in range(clients)]
        try:
            yield got
        finally:
            over.set()
        for future in futures:
            future.result()


def test_a_version_takes_over_under_eight_clients_and_no_request_fails(first, versions):
    with opened(first) as connection, asking(first, 8) as got:
        asked, times = time.monotonic(), {}
        for step in deploy(connection, versions["2.0"], TERMS):
            times[step.name] = asked, time.monotonic()
            asked = time.monotonic()
        enough = len(got) + 50
        until(lambda: len(got) > enough)
    began, done = times["set-default"]
    assert {status for _, _, status, _ in got} == {200}
    assert {found for _, _, _, found in got} == {"1.0", "2.0"}
    assert all(sent < done for sent, _, _, found in got if found == "1.0")
    assert all(answered > began for _, answered, _, found in got if found == "2.0")
    assert set(first.held()) == {"2.0"}
    order = ["admit", "prove", "register", "commit", "set-default", "drain", "unregister"]
    assert [step for step in times if step in order] == order


def kept(done):
    """The report of a command."""
    return json.loads(Path(done.stdout.strip()).read_text())


def test_deploy_shows_its_steps_and_keeps_a_report_and_rollback_goes_back(first, versions):
    done = first.command("deploy", versions["2.0"], UNMEASURED)
    assert done.returncode == 0, done.stderr
    assert "proven: 2.0 against 1.0" in done.stderr
    report = kept(done)
    assert report["outcome"] == "done"
    assert report["proof"]["verdict"] == "proven"
    assert report["drained"]["empty"]
    assert [s["step"] for s in report["steps"]][-2:] == ["drain", "unregister"]
    assert first.predict(ROW).json()["model_version"] == "2.0"

    back = first.command("rollback")
    assert back.returncode == 0, back.stderr
    assert first.predict(ROW).json()["model_version"] == "1.0"
    assert first.state()[MODEL]["previous"]["version"] == "2.0"
    assert set(first.held()) == {"1.0"}


def test_a_deploy_whose_report_can_not_be_written_ends_as_it_went(first, versions):
    reports, aside = first.home / "reports", first.home / "reports-aside"
    reports.rename(aside)
    reports.write_text("no folder")
    try:
        done = first.command("deploy", versions["2.0"], UNMEASURED)
        again = first.command("deploy", versions["2.0"], UNMEASURED)
    finally:
        reports.unlink()
        aside.rename(reports)
    assert done.returncode == 0, done.stderr
    assert "warning: done, and the report is lost" in done.stderr
    assert again.returncode == 1
    assert "is what is served already" in again.stderr.replace("\n", " ")
    assert first.command("rollback").returncode == 0


@pytest.mark.parametrize(
    ("archive", "options", "words"),
    [
        ("forgetful", [UNMEASURED], "does not keep what the old one does"),
        ("2.0", [], "routing: not measured"),
        ("1.0", [UNMEASURED], "is what is served already"),
        ("namesake", [UNMEASURED], "from an archive with other bytes"),
        ("2.0", [UNMEASURED, "--name", "other"], "is of model net, not of other"),
        ("half", [UNMEASURED], "half.mar"),
    ],
)
def test_what_may_not_take_over_leaves_everything_as_it_was(
    first, versions, forgetful, namesake, tmp_path, archive, options, words
):
    half = tmp_path / "half.mar"
    half.write_bytes(versions["2.0"].read_bytes()[:-50])
    path = {"forgetful": forgetful, "namesake": namesake, "half": half, **versions}[archive]
    before = first.state(), first.held(), sorted(p.name for p in (first.home / "store").iterdir())
    done = first.command("deploy", path, *options)
    assert done.returncode == 1
    assert words in done.stderr.replace("\n", " ")
    assert kept(done)["outcome"].startswith("failed: ")
    assert (first.state(), first.held(), sorted(p.name for p in (first.home / "store").iterdir())) == before


def recorded(path, archive, task=-1):
    """Recorded requests: 20 probes."""
    x = np.concatenate(list(archive.probes.values()))[:20].astype("float32")
    rows = np.zeros(
        len(x) + 3, [("time", "<f8"), ("task", "<i8"), ("threshold", "<f4"), ("x", "<f4", x.shape[1:])]
    )
    rows["time"][: len(x)], rows["task"], rows["x"][: len(x)] = 1.0, task, x
    np.save(path, rows)
    return len(x)


def test_recorded_requests_are_sent_to_both_versions_before_the_commit(first, versions, tmp_path):
    count = recorded(tmp_path / "pinned.npy", read_archive(versions["1.0"]), task=0)
    recorded(tmp_path / "routed.npy", read_archive(versions["1.0"]))
    options = [UNMEASURED, "--max-shadow-changes", "0", "--shadow"]
    (tmp_path / "none.npy").write_bytes(b"nothing")
    wrong = first.command("deploy", versions["2.0"], *options, tmp_path / "none.npy")
    assert wrong.returncode == 1
    assert "holds no recorded requests" in wrong.stderr.replace("\n", " ")
    assert set(first.held()) == {"1.0"}

    free = first.command("deploy", versions["2.0"], UNMEASURED, "--shadow", tmp_path / "routed.npy")
    assert free.returncode == 0, free.stderr
    found = kept(free)["shadow"]
    assert found["requests"] == sum(task["requests"] for task in found["tasks"].values()) == count
    moved = sum(task["task_changed"] + task["label_changed"] for task in found["tasks"].values())
    assert found["changed"] == moved
    pinned = first.command("deploy", versions["3.0"], *options, tmp_path / "pinned.npy")
    assert pinned.returncode == 0, pinned.stderr
    found = kept(pinned)["shadow"]
    assert (found["changed"], found["label_difference"]) == (0, 0.0)


STEPS = ["prove", "register", "probe", "commit", "set-default", "drain"]
COMMITTED = ["commit", "set-default", "drain"]


def broken_off_at(server, versions, step, number):
    """Break off whatever brings the other version, and wait until the server is whole again."""
    old = server.default()
    new = "2.0" if old == "1.0" else "1.0"
    archive = versions["2.0"] if new == "2.0" else None
    assert broken_off(server.home, archive, step, number) == (-number if number == signal.SIGKILL else 1)
    expected = new if step in COMMITTED else old
    until(lambda: set(server.held()) == {expected} and server.default() == expected)
    assert server.state()[MODEL]["default"]["version"] == expected


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_deploy_broken_off_after_any_step_is_undone_or_finished_while_all_are_answered(
    server, versions, number
):
    if server.default() != "1.0":  # a rollback proves nothing, so the first step must be a deploy's
        assert server.command("rollback").returncode == 0
    with asking(server, 2) as got:
        for step in STEPS:
            broken_off_at(server, versions, step, number)
    assert {status for _, _, status, _ in got} == {200}


def test_a_deploy_killed_before_or_after_the_commit_is_undone_or_finished(first, versions):
    with asking(first, 2) as got:
        broken_off_at(first, versions, "register", signal.SIGKILL)
        broken_off_at(first, versions, "commit", signal.SIGKILL)
    assert {status for _, _, status, _ in got} == {200}


def test_a_deploy_ended_by_ctrl_c_leaves_the_old_version_at_once(first, versions):
    assert broken_off(first.home, versions["2.0"], "probe", signal.SIGINT) == 1
    assert set(first.held()) == {"1.0"}
    assert first.state()[MODEL]["default"]["version"] == "1.0"


def test_the_next_command_cleans_up_after_a_killed_one_whose_lock_is_free(first, versions):
    home = Home(first.home)
    with home.changing():
        assert first.manage("POST", "/models", url=_stored(first, versions["3.0"])).status_code == 200
        assert set(first.held()) == {"1.0", "3.0"}
    with opened(first) as connection:
        steps = deploy(connection, versions["2.0"], TERMS)
        assert next(steps).name == "admit"
        assert set(first.held()) == {"1.0"}
        steps.close()


def test_torchserve_is_brought_back_to_the_desired_state_whatever_was_done_to_it(first, versions):
    with Home(first.home).changing():
        assert first.manage("POST", "/models", url=_stored(first, versions["3.0"])).status_code == 200
        assert first.manage("PUT", f"/models/{MODEL}/3.0/set-default").status_code == 200
        assert first.manage("DELETE", f"/models/{MODEL}/1.0").status_code == 200
    until(lambda: set(first.held()) == {"1.0"} and first.default() == "1.0")


def _stored(server, archive):
    """The archive in the server's store, as an operator with shell access could put it there."""
    name = f"by-hand-{archive.name}"
    (server.home / "store" / name).write_bytes(archive.read_bytes())
    return name


def test_the_old_version_answers_what_it_has_begun_before_it_goes(first, versions):
    (worker,) = first.workers()
    home, patient = Home(first.home), Timeouts(drain=PATIENCE)
    with connect(home, find(home), patient) as connection, ThreadPoolExecutor(100) as pool:
        steps = deploy(connection, versions["2.0"], TERMS)
        while next(steps).name != "set-default":
            pass
        worker.suspend()
        begun = first.begin(pool, ROW, "1.0")
        drained = pool.submit(next, steps)
        time.sleep(1.0)  # in which nothing may happen
        assert not drained.done()
        worker.resume()
        assert {answer.result().json()["model_version"] for answer in begun} == {"1.0"}
        assert drained.result().found["drained"]["empty"]
        assert [step.name for step in steps] == ["unregister"]


def test_a_drain_has_a_limit_after_which_all_are_answered_or_told(first, versions):
    (worker,) = first.workers()
    home = Home(first.home)
    with connect(home, find(home), Timeouts(drain=0.5)) as connection, ThreadPoolExecutor(100) as pool:
        steps = deploy(connection, versions["2.0"], TERMS)
        while next(steps).name != "set-default":
            pass
        worker.suspend()
        begun = first.begin(pool, ROW, "1.0")
        step = next(steps)
        assert step.text == "net 1.0 was still at work: 0 waiting, 1 workers busy"
        assert not step.found["drained"]["empty"]
        assert [step.name for step in steps] == ["unregister"]
        answers = [future.result() for future in begun]
        assert answers[0].status_code >= 500
        assert answers[-1].json()["model_version"] == "1.0"
    assert set(first.held()) == {"2.0"}


def test_a_model_that_is_new_is_asked_about_needs_no_proof_and_then_commands_need_a_name(
    server, versions, tmp_path
):
    """Its archive is one from before schema 1.5.0, whose handler is flat files."""
    flat = {"bundle": lambda bundle: bundle.update(name="other", schema="1.4.0"), "files": flat_handler}
    other = edited(versions["1.0"], tmp_path / "other.mar", **flat)
    unasked = server.command("deploy", other)
    assert unasked.returncode == 1
    assert (
        "other would be a new model beside what is served here (net): --new-model"
        in unasked.stderr.replace("\n", " ")
    )
    assert set(server.state()) == {MODEL}
    done = server.command("deploy", other, "--new-model")
    assert done.returncode == 0, done.stderr
    assert "nothing to prove" in done.stderr
    again = server.command("deploy", versions["2.0"], "--new-model")
    assert "net is served here already: a new version of it takes no --new-model" in again.stderr.replace(
        "\n", " "
    )
    answers = [server.predict(ROW, model=name).json() for name in ("other", MODEL)]
    assert answers[0] == answers[1]
    unnamed = server.command("rollback")
    assert unnamed.returncode == 1
    assert "served here: net, other" in unnamed.stderr
    nothing = server.command("rollback", "--name", "other")
    assert "has no version before 1.0" in nothing.stderr
    listed = json.loads(server.command("status", "--json").stdout)["models"]
    assert listed["other"]["versions"]["1.0"]["default"]
    assert server.control("/ready").status_code == 200
