"""What networks are compared with: the same tasks, learned by other methods."""

import json

import pytest

from eideticnet.__main__ import main
from eideticnet.users_code import forget
from tests.support.user_project import Result, write_project


@pytest.fixture
def learn(tmp_path, monkeypatch, capsys):
    """Learn a user's tasks by a method: how that ended, and the file."""
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)

    def call(method, *more, config="config.toml", out="baseline.json", check=True):
        forget(all_of_it=True)
        command = [config, "--method", method, "--out", out, *more]
        with pytest.raises(SystemExit) as end:
            main(command, "experiments.baselines.__main__", "baselines")
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
    ],
)
def test_what_is_no_baseline_of_this_kind_is_said_in_one_line(learn, arguments, options, said):
    learn("joint", "--seed", "3")
    assert said in learn(*arguments, **options, check=False)[0].error
