"""Files that a server needs are gone, half-written or can't be written."""

import os
import shutil
import signal
import subprocess
from contextlib import suppress

import pytest

from tests.support.canary import KNOWN, Canary
from tests.support.own_ports import with_own_ports
from tests.support.served_process import Served, serving
from tests.support.waiting import until

ROW = {"data": KNOWN[0]}
UNMEASURED = "--accept-unmeasured-routing"


@pytest.fixture(scope="module")
def full(archives, tmp_path_factory):
    """A server whose disk for logs is full from the beginning."""
    home = tmp_path_factory.mktemp("full") / "home"
    (home / "logs").mkdir(parents=True)
    (home / "server.lock").touch()  # so that it is a home
    for name in ("requests.jsonl", "torchserve.log"):
        (home / "logs" / name).symlink_to("/dev/full")
    with Served(home, archives["1"]) as running:
        yield running


def test_a_full_disk_for_logs_loses_lines_and_no_answer(full):
    for _ in range(50):
        assert full.predict(ROW).status_code == 200
        assert full.predict({"data": [1]}).status_code == 400  # which is logged
    until(lambda: full.control("/ready").status_code == 200)
    (worker,) = full.workers()
    os.kill(worker.pid, signal.SIGKILL)
    until(lambda: full.answers(ROW))


def test_a_store_that_is_gone_keeps_answering_and_a_deploy_says_so(full, archives, tmp_path):
    store, away = full.home / "store", tmp_path / "away"
    shutil.move(store, away)
    try:
        with Canary(full, 2) as canary:
            done = full.command("deploy", archives["2"], UNMEASURED)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert str(store) in done.stderr.replace("\n", "")
        assert canary.wrong == []
        assert canary.asked
    finally:
        shutil.rmtree(store, ignore_errors=True)
        shutil.move(away, store)
    done = full.command("deploy", archives["2"], UNMEASURED)
    assert "2.mar is sound" in done.stderr  # this little network can be served, but nothing proven of it


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_half_an_archive_is_named_at_deploy_and_at_start(full, archives, tmp_path, share):
    half = tmp_path / "half.mar"
    data = archives["1"].read_bytes()
    half.write_bytes(data[: int(len(data) * share)])
    before = full.state(), full.held(), sorted((full.home / "store").iterdir())
    done = full.command("deploy", half, UNMEASURED)
    assert done.returncode == 1
    assert (full.state(), full.held(), sorted((full.home / "store").iterdir())) == before
    assert "half.mar" in done.stderr
    done = serving("serve", half, "--home", tmp_path / "home")
    assert done.returncode == 1
    assert not (tmp_path / "home").exists()
    assert "half.mar" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_restart_names_the_stored_archive_that_is_gone_or_half_written(archives, tmp_path):
    """TorchServe is not started for that. Once the archive is whole again, so is the server."""
    home = tmp_path / "home"
    done = serving("serve", archives["1"], "--home", with_own_ports(home), "--run", "true")
    assert done.returncode == 0, done.stderr
    (stored,) = (home / "store").glob("*.mar")
    whole, log = stored.read_bytes(), (home / "logs/torchserve.log").read_bytes()
    for harm in (stored.unlink, lambda: stored.write_bytes(whole[:1000])):
        harm()
        done = serving("serve", "--home", with_own_ports(home), "--run", "true")
        assert done.returncode == 1
        assert stored.name in done.stderr.replace("\n", "")
        assert "Traceback" not in done.stderr
        assert (home / "logs/torchserve.log").read_bytes() == log
    stored.write_bytes(whole)
    done = serving("serve", "--home", with_own_ports(home), "--run", "true")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def disk(tmp_path):
    """A folder on a small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a tmpfs can't be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_under_the_home_fails_no_request_and_a_deploy_says_so(archives, disk):
    with Served(disk / "home", archives["1"], "--record", 10) as server:
        before = server.state(), sorted((server.home / "store").iterdir())
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        with Canary(server, 2) as canary:
            assert server.predict({"data": [1]}).status_code == 400  # which is logged
            done = server.command("deploy", archives["2"], UNMEASURED)
            canary.answered(20)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "No space left" in done.stderr.replace("\n", " ")
        assert canary.wrong == []
        assert (server.state(), sorted((server.home / "store").iterdir())) == before
        (worker,) = server.workers()
        os.kill(worker.pid, signal.SIGKILL)
        until(lambda: server.answers(ROW))
        until(lambda: server.control("/ready").status_code == 200)
        (disk / "filler").unlink()
        done = server.command("deploy", archives["2"], UNMEASURED)
        assert "2.mar is sound" in done.stderr


@pytest.mark.slow
def test_a_full_disk_together_with_a_crash_of_java_is_waited_for(archives, disk):
    with Served(disk / "home", archives["1"]) as server:
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        before = server.running
        os.kill(before["frontend"], signal.SIGKILL)
        until(lambda: "No space left" in server.control("/ready").text)
        assert server.process.poll() is None
        assert server.control("/live").status_code == 200
        (disk / "filler").unlink()
        until(lambda: server.control("/ready").status_code == 200)
        assert server.predict(ROW).status_code == 200
        assert server.running["inference"] == before["inference"]
        server.tells_once("can't be started again yet")
        assert "Traceback" not in server.output()
