"""The load test passes when its objectives are met, and fails when one is missed."""

import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.objectives import Measured, Objectives, read_plan

ROOT = Path(__file__).parents[2]
OBJECTIVES = Objectives(max_p50_ms=10, max_p99_ms=50, max_error_rate=0.01, min_requests=100)


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        (Measured(1000, 0, 5, 20), []),
        (Measured(1000, 10, 10, 50), []),
        (Measured(1000, 0, 11, 20), ["p50 is 11"]),
        (Measured(1000, 0, 5, 51), ["p99 is 51"]),
        (Measured(1000, 11, 5, 20), ["error rate is 0.011"]),
        (Measured(99, 0, 5, 20), ["only 99 requests"]),
        (Measured(0, 0, 0, 0), ["error rate", "only 0 requests"]),
    ],
)
def test_each_missed_objective_gets_a_line(measured, words):
    lines = OBJECTIVES.missed(measured)
    assert len(lines) == len(words)
    assert all(word in line for word, line in zip(words, lines, strict=True))


def test_the_committed_plan_can_be_read_and_a_wrong_one_is_named(tmp_path):
    assert read_plan(ROOT / "loadtest/objectives.toml").objectives.max_error_rate == 0.0
    (tmp_path / "wrong.toml").write_text("users = 3")
    with pytest.raises(ValueError, match=r"wrong\.toml"):
        read_plan(tmp_path / "wrong.toml")


def test_a_real_load_meets_reachable_objectives_and_misses_unreachable_ones(store, tmp_path):
    commands = []
    for name, p50 in (("reachable", 5000), ("unreachable", 0)):
        plan = tmp_path / f"{name}.toml"
        plan.write_text(
            "users = 4\nseconds = 3\n[objectives]\nmin_requests = 5\nmax_error_rate = 0.0\n"
            f"max_p50_ms = {p50}\nmax_p99_ms = 20000\n"
        )
        commands.append(f"{sys.executable} -m loadtest --plan {plan}; echo {name} exits with $?")
    archive = store / "digits-onnx-3.0.mar"
    command = [sys.executable, "-m", "serving", "start", str(archive), "--run", "; ".join(commands)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150, check=True)
    assert "all objectives met" in result.stdout
    assert "reachable exits with 0" in result.stdout
    assert "objective missed: p50" in result.stdout
    assert "unreachable exits with 1" in result.stdout


def test_without_a_server_the_load_test_says_how_to_get_one():
    result = subprocess.run(
        [sys.executable, "-m", "loadtest"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "serving start" in result.stderr
