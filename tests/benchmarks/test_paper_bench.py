"""The figures that experiments were to reach are read from their results, and what is missing is named."""

import json

import pytest

from benchmarks import paper, report
from eideticnet.experiments import results
from tests.experiments.test_tables import BASELINE, RESULT


@pytest.fixture
def known(tmp_path, monkeypatch):
    """A folder with a result of MNIST-5 alone."""
    joint = {seed: BASELINE | {"found": {"mean": mean}} for seed, mean in (("0", 0.5), ("2", 0.9))}
    runs = {"": RESULT.runs["score=l1"]}
    result = RESULT.model_copy(update={"name": "mnist5", "runs": runs, "baselines": {"joint": joint}})
    results.write(result, tmp_path)
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(report, "RESULTS", tmp_path / "published")
    return tmp_path / "published/paper.json"


def test_figures_are_means_over_seeds_and_differences_are_paired_by_seed(known, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["paper", "--no-masked"])
    paper.main()
    published = json.loads(known.read_text())
    figures = published["figures"]
    assert figures["mnist5.oracle"] == pytest.approx(0.855)
    assert figures["mnist5.routed"] == 0.65
    assert figures["mnist5.joint"] == 0.7
    assert figures["mnist5.madds"] == 0.75
    assert figures["mnist5.routed_minus_joint"] == pytest.approx(0.15)  # of the one seed that both have
    assert "pmnist10.oracle" not in figures
    assert {"pmnist10.oracle", "train.vs_masked"} <= set(published["details"]["missing"])
    assert "not run: pmnist10.oracle, cifar10_5.mlp.routed" in capsys.readouterr().out
