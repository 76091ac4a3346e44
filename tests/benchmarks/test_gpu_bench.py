"""The benchmark of GPUs measures what it says, and says so where there is none."""

import pytest
import torch

from benchmarks.gpu import figures, main
from benchmarks.graphs import equal_tasks
from eideticnet.models import mlp


def test_its_ratios_are_those_of_the_runs_that_they_name():
    """On the CPU, by the code that runs on CUDA."""
    net = equal_tasks(mlp(8, (40, 40)), (8,), 3, router=True)
    found, details = figures(net, "cpu", batch=4, rounds=5)
    assert set(found) == {"gpu.one_pass", "gpu.vs_bare", "gpu.vs_cpu"}
    assert set(details["milliseconds"]) == {"routed", "given", "bare", "handler", "cpu"}
    assert 0 < found["gpu.vs_bare"] < 1  # the handler does what the bare session does, and more


def test_without_a_gpu_nothing_is_measured_and_a_line_says_why(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match=r"^nothing was measured: .*CUDA"):
        main()
    assert capsys.readouterr().out == ""
