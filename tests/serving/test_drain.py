"""Whether a process works is seen, or is not taken for granted."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eideticnet.serving.torchserve import drain


def process(code):
    return subprocess.Popen([sys.executable, "-c", code])


def copied(pid, folder):
    """/proc/PID as a kernel shows it that keeps no account of its scheduler."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        (folder / str(pid) / "task" / thread.name).mkdir(parents=True, exist_ok=True)
        (folder / str(pid) / "task" / thread.name / "stat").write_text((thread / "stat").read_text())


@pytest.mark.parametrize("scheduler", [True, False])
def test_a_process_that_works_is_busy_and_one_that_waits_is_not(scheduler, tmp_path, monkeypatch):
    waits, works = process("import time; time.sleep(60)"), process("while True: pass")
    try:
        time.sleep(0.5)
        looks = []
        for _ in range(2):
            if not scheduler:
                for each in (waits, works):
                    copied(each.pid, tmp_path)
                monkeypatch.setattr(drain, "PROC", tmp_path)
            looks.append([drain._effort(each.pid) for each in (waits, works)])
            monkeypatch.undo()
            time.sleep(0.2)
        assert looks[0][0] == looks[1][0] is not None
        assert looks[0][1] < looks[1][1]
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
