"""A server as process 1, with SIGHUP, and with logs that are moved away."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress

import httpx
import psutil
import pytest

from tests.support.eidetic_command import EIDETIC, interrupted
from tests.support.own_ports import with_own_ports
from tests.support.served_process import ROOT, Served, changed, serving
from tests.support.waiting import PATIENCE, until

ROW = {"data": [0.5] * 6}


def test_a_hang_up_ends_no_server_and_logs_that_were_moved_away_are_begun_anew(versions, tmp_path):
    with Served(tmp_path / "home", versions["1.0"]) as server:
        log = server.home / "logs/torchserve.log"
        old = log.rename(log.with_suffix(".1"))
        size = old.stat().st_size
        server.process.send_signal(signal.SIGHUP)
        host, port = server.running["inference"].removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as odd:
            odd.sendall(b"GET /%zz HTTP/1.1\r\n\r\n")  # of which TorchServe tells
            assert odd.recv(100)
        until(lambda: log.exists() and log.stat().st_size)
        assert old.stat().st_size == size
        assert server.predict(ROW).status_code == 200
        assert server.process.poll() is None


def test_a_server_under_nohup_goes_on_ignoring_hang_ups(versions, tmp_path):
    """Bit 0 of the ignored signals is that of SIGHUP."""
    command = f"nohup {EIDETIC} serve {versions['1.0']} --home {tmp_path}/home --run"
    ask = "'kill -HUP $PPID; sleep 1; grep SigIgn /proc/$PPID/status'"
    done = subprocess.run(
        f"{command} {ask} < /dev/null", shell=True, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1], 16) & 1


@pytest.mark.slow
def test_a_quit_from_the_keyboard_leaves_as_little_as_another_stop(versions, tmp_path):
    with Served(tmp_path / "home", versions["1.0"]) as server:
        server.process.send_signal(signal.SIGQUIT)
        assert server.process.wait(PATIENCE) == 0
        assert list((server.home / "run").iterdir()) == []


@pytest.mark.parametrize("module", ["typer", "httpx", "numpy"])
def test_an_interrupt_while_modules_are_imported_shows_no_traceback(module):
    result = interrupted(module, "status")
    assert result.returncode in (-signal.SIGINT, 130)
    assert "Traceback" not in result.stderr


def test_an_interrupted_command_says_so_and_ends_with_130(tmp_path):
    (tmp_path / "state.json").write_text("{}")
    result = interrupted(str(tmp_path), "status", "--home", str(tmp_path))
    assert (result.returncode, result.stderr) == (130, "interrupted\n")


def ready(home):
    """Whether it answers, however it is asked from outside its container."""
    try:
        running = json.loads((home / "server.json").read_text())
        return (
            httpx.get(running["control"] + "/ready", timeout=PATIENCE, trust_env=False).status_code == 200
            and running
        )
    except (OSError, ValueError, httpx.HTTPError):
        return None


PATIENT = "import eideticnet.serving.processes.groups as g; g.STOP_SECONDS = 1e6"
"""Who waits for the dead, whom nobody but itself lets go, waits for ever."""


def test_a_server_that_is_process_1_waits_for_no_dead_and_keeps_no_zombies(versions, tmp_path):
    alone = ["unshare", "--pid", "--fork", "--mount-proc"]
    tried = subprocess.run([*alone, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no container can be made here: {tried.stderr.strip()}")
    home = tmp_path / "home"
    command = [*alone, *changed(PATIENT), "serve", versions["1.0"], "--home", with_own_ports(home)]
    with (tmp_path / "log").open("w") as log:
        outside = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: ready(home))
        (first,) = psutil.Process(outside.pid).children()
        (java,) = first.children()
        left = java.children()[0].pid  # a worker, which process 1 inherits
        java.kill()
        (again,) = until(lambda: [p for p in first.children() if p.pid not in (java.pid, left)])
        until(lambda: ready(home))
        until(lambda: not psutil.pid_exists(left))
        orphan = subprocess.run(
            ["nsenter", "-t", str(first.pid), "-p", "sh", "-c", "sleep 0.3 & echo $!"],
            capture_output=True,
            text=True,
        )
        assert orphan.returncode == 0, orphan.stderr
        until(lambda: first.children() == [again])
        told = serving("stop", "--home", home)
        assert told.returncode == 1
        assert "is in another container or account" in told.stderr.replace("\n", " ")
        assert psutil.pid_exists(first.pid)
        first.terminate()
        assert outside.wait(PATIENCE) == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(outside.pid, signal.SIGKILL)
        outside.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert list((home / "run").iterdir()) == []


HEEDED_AT_A_FORK = """
import os, signal, subprocess, time
from eideticnet.signals import heeding_signals, unhurried
os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.SIGTERM))
try:
    with heeding_signals(), unhurried():
        subprocess.run(["true"], preexec_fn=int)
        time.sleep(60)
except KeyboardInterrupt as stop:
    print("stopped by", int(stop.args[0]))
"""


def test_a_signal_that_comes_while_a_process_forks_is_not_lost():
    """Python ignores what a callback of a fork raises, and the next signals are ignored by then."""
    code = [sys.executable, "-c", HEEDED_AT_A_FORK]
    ended = subprocess.run(code, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert (ended.stdout, ended.stderr) == ("stopped by 15\n", "")
