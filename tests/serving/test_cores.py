"""Workers never outnumber the cores, whatever was asked for."""

import os
import subprocess
import sys

from eidetic_runtime.device import usable_cores
from eideticnet.serving.supervise.launch import fitting
from tests.support.served_process import Served


def test_there_are_never_more_workers_than_cores():
    for workers in range(1, 3 * usable_cores()):
        found, note = fitting(workers)
        assert found == min(workers, usable_cores())
        assert bool(note) == (found < workers)


def test_the_cores_are_those_that_this_process_may_use():
    alone = f"os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})"
    code = f"import os; from eidetic_runtime.device import usable_cores; {alone}; print(usable_cores())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"1\n"


def test_a_server_that_is_to_have_too_many_workers_has_as_many_as_fit_and_says_so(versions, tmp_path):
    with Served(tmp_path / "home", versions["1.0"], "--workers", 50 * usable_cores()) as server:
        assert server.running["workers"] == len(server.workers()) == usable_cores()
        assert f"{50 * usable_cores()} workers are more than the {usable_cores()} cores" in server.output()
