"""What networks are compared with: the same tasks, learned by other methods."""

import json
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from eideticnet.__main__ import main
from eideticnet.experiments.baselines.answers import Scope
from eideticnet.users_code import forget
from tests.support.clone import ROOT
from tests.support.user_project import CONFIG, TRUNK, Result, write_project


@pytest.fixture
def learn(tmp_path, monkeypatch, capsys):
    """Learn a user's tasks by a method: how that ended, and the file."""
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)

    def call(method, *more, config="config.toml", out="baseline.json", check=True):
        forget(all_of_it=True)
        command = [config, "--method", method, "--out", out, *more]
        with pytest.raises(SystemExit) as end:
            main(command, "eideticnet.experiments.baselines.__main__", "baselines")
        told = capsys.readouterr()
        result = Result(int(end.value.code or 0), told.out, told.err)
        assert not check or result.returncode == 0, result
        return result, tmp_path / out

    return call


def found(learned):
    return json.loads(learned[1].read_text())


def test_a_joint_network_answers_at_least_as_many_rightly_when_the_task_is_given(learn):
    result = found(learn("joint"))
    for task, classes in result["given"]["classes"].items():
        assert all(result["found"]["classes"][task][c] <= share for c, share in classes.items())
    assert result["given"]["mean"] > 0.9
    assert (result["data_seen"], result["multiply_adds"], result["memory_bytes"]) == ("all", 1.0, 0)
    assert list(result["given"]["classes"]["fish"]) == ["cod", "eel", "ray"]


def test_single_networks_never_change_once_they_have_learned(learn):
    result = found(learn("single"))
    (first, later), (again, second) = result["given"]["matrix"]
    assert (first, later) == (again, None)
    assert result["given"]["tasks"] == {"birds": first, "fish": second}
    assert result["found"] is None
    assert result["data_seen"] == "none"


def test_a_seed_decides_a_baseline_and_a_finished_one_is_not_learned_again(learn):
    one, other = (found(learn("joint", "--seed", "3", out=name)) for name in ("one.json", "other.json"))
    assert all(one[key] == other[key] for key in one if key != "seconds")
    before = (again := learn("joint", "--seed", "3", out="one.json"))[1].stat().st_mtime_ns
    assert "is there already" in again[0].stdout
    assert before == again[1].stat().st_mtime_ns


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("single", "--seed", "0"), {}, "another method and seed; remove it, or name another --out"),
        (("joint",), {"out": "config.toml"}, "config.toml holds no result of a baseline"),
        (("joint",), {"config": "confg.toml"}, "did you mean 'config.toml'?"),
        (("joint",), {"config": "shared.toml", "out": "new.json"}, "count each task's classes apart"),
    ],
)
def test_what_is_no_baseline_of_this_kind_is_said_in_one_line(learn, arguments, options, said):
    learn("joint", "--seed", "3")
    Path("shared.toml").write_text(f'label_space = "shared"\n{CONFIG}')
    assert said in learn(*arguments, **options, check=False)[0].error


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_where_the_task_is_given_the_loss_is_that_of_a_head_of_its_own(smoothing):
    owners, logits = torch.tensor([0, 0, 1, 1, 1]), torch.randn(8, 5)
    y = torch.tensor([2, 3, 4, 2, 3, 4, 3, 2])
    scope, everywhere = Scope(owners, smoothing), Scope(owners * 0, smoothing)
    own = F.cross_entropy(logits[:, 2:], y - 2, label_smoothing=smoothing)
    assert torch.allclose(scope.loss(logits, y), own, atol=1e-6)
    assert torch.equal(scope.right(logits, y), logits[:, 2:].argmax(1) == y - 2)
    assert torch.allclose(
        everywhere.loss(logits, y), F.cross_entropy(logits, y, label_smoothing=smoothing), atol=1e-6
    )


def test_without_avalanche_it_is_said_where_it_is(learn):
    if find_spec("avalanche"):
        pytest.skip("it is installed here")
    assert (
        "packnet needs avalanche; `make .venv-baselines/installed`" in learn("packnet", check=False)[0].error
    )


@pytest.fixture
def learn_in(tmp_path):
    """As ``learn``, in the environment of its own that has Avalanche."""
    python = ROOT / ".venv-baselines/bin/python"
    if not python.exists():
        pytest.skip("`make .venv-baselines/installed` makes the environment")
    write_project(tmp_path)
    config = tmp_path / "config.toml"
    config.write_text(f"validation = 0.2\n{CONFIG}")

    def call(method, *more, check=True):
        out = tmp_path / f"{method}.json"
        command = [
            python,
            "-m",
            "eideticnet.experiments.baselines",
            config,
            "--method",
            method,
            "--out",
            out,
            *more,
        ]
        ended = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)
        assert not check or ended.returncode == 0, ended
        return json.loads(out.read_text()) if check else ended

    call.folder = tmp_path
    return call


@pytest.mark.slow
def test_packnet_forgets_nothing_and_has_to_be_told_the_task(learn_in):
    trunk = learn_in.folder / "my_trunk.py"
    trunk.write_text(TRUNK.replace("nn.ReLU()", "nn.BatchNorm1d(width), nn.ReLU()", 1))
    result = learn_in("packnet")
    (first, later), (again, second) = result["given"]["matrix"]
    assert (first, later) == (again, None)
    assert min(first, second) > 0.7
    assert (result["found"], result["data_seen"]) == (None, "none")
    assert result["memory_bytes"] == 6 * 24 + 24 * 24  # a byte for each weight of the trunk


@pytest.mark.slow
def test_replay_keeps_so_many_examples_and_finds_more_than_fine_tuning(learn_in):
    assert learn_in("replay", check=False).stderr.startswith("error: replay: give --memory K")
    kept, plain = learn_in("replay", "--memory", "20"), learn_in("fine_tuning")
    assert kept["found"]["mean"] > plain["found"]["mean"]
    assert (kept["data_seen"], plain["data_seen"]) == ("memory 20", "none")
    assert kept["memory_bytes"] == 2 * 20 * (6 * 4 + 8)


@pytest.mark.slow
def test_the_strength_of_ewc_is_chosen_on_validation_data_or_given(learn_in):
    chosen = learn_in("ewc")
    assert [note.rpartition("of ")[2] for note in chosen["notes"]] == ["100, 10000, 1e+06"] * 2
    assert chosen["memory_bytes"] == 2 * 2 * chosen["network_bytes"]
