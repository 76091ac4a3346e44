"""Whether a process works is seen, or is not taken for granted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eideticnet.serving.torchserve import drain
from tests.support.waiting import until


def process(code):
    """A Python that runs ``code``, and has begun to."""
    command = [sys.executable, "-S", "-c", f"print(flush=True); {code}"]
    begun = subprocess.Popen(command, stdout=subprocess.PIPE)
    begun.stdout.readline()
    begun.stdout.close()
    return begun


def copied(pid, folder):
    """/proc/PID as a kernel shows it that keeps no account of its scheduler."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        (folder / str(pid) / "task" / thread.name).mkdir(parents=True, exist_ok=True)
        (folder / str(pid) / "task" / thread.name / "stat").write_text((thread / "stat").read_text())


@pytest.mark.parametrize("scheduler", [True, False])
def test_a_process_that_works_is_busy_and_one_that_waits_is_not(scheduler, tmp_path, monkeypatch):
    waits, works = process("import signal; signal.pause()"), process("exec('while True: pass')")

    def looks():
        """What each of them has run so far."""
        if scheduler:
            return [drain._effort(each.pid) for each in (waits, works)]
        for each in (waits, works):
            copied(each.pid, tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(drain, "PROC", tmp_path)
            return [drain._effort(each.pid) for each in (waits, works)]

    def one_waits_while_the_other_works():
        before = looks()
        after = until(lambda: (now := looks())[1] > before[1] and now)
        return after[0] == before[0] is not None

    try:
        until(one_waits_while_the_other_works)  # it may still be on its way to where it waits
    finally:
        for each in (waits, works):
            each.kill()
            each.wait()
    assert [drain._effort(each.pid) for each in (waits, works)] == [None, None]


def test_a_process_that_can_not_be_looked_at_counts_as_busy(tmp_path, monkeypatch):
    monkeypatch.setattr(drain, "PROC", tmp_path)
    before, now = drain._effort(os.getpid()), drain._effort(os.getpid())
    assert drain._busy([before], [now]) == 1
    assert drain._effort(-1) is None
