"""TorchServe's private folder lies in the home, is fit for it or said not to be, and never stays behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eideticnet.serving.errors import Unavailable
from eideticnet.serving.home.home import Home
from eideticnet.serving.processes.folder import MARK, clean_up
from eideticnet.serving.processes.groups import owned
from eideticnet.serving.torchserve.process import private_folder
from tests.support.own_ports import with_own_ports
from tests.support.served_process import ROOT, Served, changed, serving
from tests.support.waiting import PATIENCE, until


@pytest.fixture
def mounted(tmp_path):
    """``mounted(options)``: a small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a tmpfs can't be mounted here: {done.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", "-l", folder], check=False, capture_output=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("size=16m,noexec", "noexec"),
        ("size=2m", "needs 4 MB there: No space left"),
        ("size=16m,ro", "Read-only"),
    ],
)
def test_a_disk_that_no_torchserve_can_run_on_is_named_before_it_is_started(mounted, options, words):
    disk = mounted(options)
    with pytest.raises(Unavailable, match=words) as refused:
        private_folder(disk, 0)
    assert str(disk) in str(refused.value)
    assert list(disk.iterdir()) == []


def test_a_start_on_such_a_disk_ends_with_that_line_before_java_is_started(mounted, versions):
    disk = mounted("size=16m,noexec")
    done = serving("serve", versions["1.0"], "--home", disk / "home")
    assert done.returncode == 1
    assert "noexec" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (disk / "home/logs/torchserve.log").exists()


def test_a_folder_is_not_looked_for_among_the_files_of_another_process(tmp_path, monkeypatch):
    """A process has another number in a namespace of its own, and /proc may be that of all."""
    many = "import os; [os.open('/', 0) for _ in range(99)]; print(flush=True); input()"
    command = [sys.executable, "-S", "-c", many]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        monkeypatch.setattr(os, "getpid", lambda: other.pid)
        folder = private_folder(tmp_path, 0)
        other.kill()
    assert folder.path == folder.real
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_removed_wherever_its_home_was_moved(tmp_path):
    (tmp_path / "home").mkdir()
    folder = private_folder(tmp_path / "home", 0)
    (tmp_path / "home").rename(tmp_path / "moved")
    (folder.path / "key_file.json").write_text("secret")
    folder.remove()
    folder.remove()
    assert list((tmp_path / "moved").iterdir()) == []


def test_a_home_with_a_long_path_serves_and_nothing_of_it_lies_among_the_temporary_files(
    versions, tmp_path, monkeypatch
):
    monkeypatch.setenv("TMPDIR", "/nowhere")
    home = tmp_path / ("long" * 40) / "home"
    home.parent.mkdir()
    with Served(home, versions["1.0"]) as server:
        assert server.predict({"data": [0.5] * 6}).status_code == 200
        assert Path(server.running["folder"]).parent == home / "run"
    assert list((home / "run").iterdir()) == []


def begun(home, *archives):
    """A server whose TorchServe has just written its keys."""
    command = [*changed(), "serve", *archives, "--home", with_own_ports(home)]
    left = set(home.glob("run/*/key_file.json"))
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: set(home.glob("run/*/key_file.json")) - left)
    return process


def test_what_a_server_leaves_that_was_killed_in_its_first_seconds_is_gone_with_the_next(
    versions, tmp_path, monkeypatch
):
    temporary, home = tmp_path / "temporary", tmp_path / "home"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    process = begun(home, versions["1.0"])
    process.kill()
    process.wait()
    unfinished = [".new-keys", "keys.json.1-0123abcd.partial"]  # the first as older servers called them
    for name in unfinished:
        (home / name).write_text("half a file of keys")
    (left,) = (home / "run").iterdir()
    process = begun(home)
    assert not left.exists()
    assert not any((home / name).exists() for name in unfinished)
    process.terminate()
    assert process.wait(PATIENCE) == 0
    assert list((home / "run").iterdir()) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("seconds", [0.15, pytest.param(0.4, marks=pytest.mark.slow)])
def test_a_stop_just_after_java_died_leaves_no_keys(versions, tmp_path, seconds):
    with Served(tmp_path / "home", versions["1.0"]) as server:
        os.kill(server.running["frontend"], signal.SIGKILL)
        time.sleep(seconds)
        server.process.terminate()
        assert server.process.wait(PATIENCE) == 0
        assert list((server.home / "run").iterdir()) == []


def test_processes_of_a_folder_whose_owner_is_gone_are_ended_and_no_others(tmp_path):
    home = Home(tmp_path)
    home.create()
    folder = private_folder(home.run, 0)

    def sleeper(**variables):
        return subprocess.Popen(["sleep", "3600"], env={**os.environ, **variables})

    ours, other = sleeper(**{MARK: str(folder.real)}), sleeper(**{MARK: f"{folder.real}x"})
    try:
        until(lambda: b"sleep" in Path(f"/proc/{other.pid}/cmdline").read_bytes())
        clean_up(home)
        assert ours.wait(PATIENCE) == -signal.SIGKILL
        assert other.poll() is None
        assert list(home.run.iterdir()) == []
    finally:
        ours.kill()
        other.kill()
        other.wait()


def test_what_belongs_to_a_process_does_not_begin_once_that_is_gone():
    """A shell between stands for whoever finds its parent dead before it could ask to end with it."""
    command = owned([sys.executable, "-c", "print('ran')"])
    for between, said in (([], "ran\n"), (["sh", "-c", '"$@"; true', "sh"], "")):
        done = subprocess.run([*between, *command], capture_output=True, text=True)
        assert (done.stdout, done.stderr) == (said, "")
