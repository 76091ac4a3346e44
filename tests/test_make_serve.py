"""``make serve`` as a user runs it: train, export, serve, paste the request, stop."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.own_ports import with_own_ports
from tests.support.served_process import alive
from tests.support.waiting import until

ROOT = Path(__file__).parents[1]


class Served:
    """A ``make serve`` in a process group of its own, as a shell would start it."""

    def __init__(self, folder, temporary):
        temporary.mkdir()
        command = ["make", "serve", f"RUNS={folder / 'runs'}", f"STORE={folder / 'store'}"]
        command += [f"SERVER_HOME={with_own_ports(temporary.with_suffix('.home'))}"]
        self.temporary = temporary
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(temporary), "COLUMNS": "120", "OMP_NUM_THREADS": "1"},
        )
        self.output = ""

    def wait_for(self, word):
        for line in self.process.stdout:
            self.output += line
            if word in line:
                return
        pytest.fail(f"make serve ended with {self.process.wait()}:\n{self.output}")

    @property
    def curl(self):
        return next(line for line in self.output.splitlines() if line.startswith("curl"))

    def processes(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def ports(self):
        return {
            c.laddr.port for p in self.processes() for c in p.net_connections("tcp") if c.status == "LISTEN"
        }


def kill(served):
    for process in [*served.processes(), served.process]:
        process.kill()


def assert_answers(curl):
    result = subprocess.run(curl, shell=True, capture_output=True, text=True, check=True)
    answer = json.loads(result.stdout)
    assert answer["task"] == "0 or 1"
    assert answer["label"] in ("0", "1")
    assert answer["model_version"] == "5.0"


def assert_nothing_is_left_after(stop, served):
    processes = served.processes()
    assert len(served.ports()) == 5
    stop(served.process)
    served.process.wait()
    until(lambda: not any(alive(process.pid) for process in processes))
    assert [p.name for p in served.temporary.iterdir()] == []


@contextmanager
def ended(served):
    try:
        yield
    finally:
        if served.process.poll() is None:
            kill(served)
        served.process.stdout.close()


def interrupt(process):
    """Ctrl-C reaches every process of the terminal's foreground group."""
    os.killpg(process.pid, signal.SIGINT)


def test_make_serve_answers_a_pasted_request_and_leaves_nothing_behind(tmp_path):
    interrupted = Served(tmp_path, tmp_path / "interrupted")
    interrupted.wait_for("0 or 1: ")
    interrupt(interrupted.process)
    interrupted.process.wait()
    interrupted.process.stdout.close()

    first = Served(tmp_path, tmp_path / "a")
    with ended(first):
        first.wait_for("Ctrl-C stops everything")
        assert not re.search(r"0 or 1: \d", first.output), "the finished task was learned again"
        table = [line for line in first.output.splitlines() if re.match(r".*\d or \d.*%.*% .* of ", line)]
        assert len(table) == 5
        assert re.search(r"router .* \d+ ", first.output)
        cost = re.findall(
            r"([\d,]+) multiply-adds an answer.*?([\d.]+) of a plain network's 84,480", first.output
        )
        assert len(cost) == 2, "after training, and beneath the table"
        assert all(float(share) < 0.5 for _, share in cost)
        assert_answers(first.curl)
        java = [p for p in first.processes() if p.name() == "java"]
        assert len(java) == 1
        assert Path(java[0].exe()).resolve().is_relative_to(Path(sys.prefix).resolve())
        assert_nothing_is_left_after(interrupt, first)


@pytest.mark.slow
def test_a_second_make_serve_learns_nothing_again_and_ends_as_a_process_manager_ends_it(tmp_path):
    first = Served(tmp_path, tmp_path / "a")
    with ended(first):
        first.wait_for("Ctrl-C stops everything")
        second = Served(tmp_path, tmp_path / "b")
        with ended(second):
            second.wait_for("Ctrl-C stops everything")
            assert "runs/digits is complete" in second.output
            assert_answers(second.curl)
            assert_answers(first.curl)
            # make sends its children another SIGTERM
            assert_nothing_is_left_after(lambda process: process.terminate(), second)
        assert_answers(first.curl)
