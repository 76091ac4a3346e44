"""On CUDA the same code gives the same answers."""

import json

import numpy as np
import pytest

from eidetic_runtime.device import Settings
from eidetic_runtime.graph import Graph
from tests.support.cuda import on_cuda
from tests.support.handler_worker import make_bundle
from tests.support.tolerances import EXPORTED

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", params=["onnx", "torchscript", "pt2"])
def graphs(request, tmp_path_factory):
    """The same bundle on CUDA and on the CPU."""
    options = {"prefixes": (1, 2)} if request.param == "onnx" else {}
    folder = make_bundle(tmp_path_factory.mktemp("gpu") / request.param, format=request.param, **options)
    bundle = json.loads((folder / "bundle.json").read_text())
    cuda = on_cuda(Graph(folder, bundle, Settings("cuda")))
    return cuda, Graph(folder, bundle, Settings("cpu"))


def inputs(tasks):
    x = np.random.default_rng(0).normal(size=(len(tasks), 6)).astype(np.float32)
    return x, np.array(tasks, np.int64), np.zeros(len(tasks), np.float32)


@pytest.mark.parametrize("rows", [1, 3, 32, 300])
def test_answers_on_cuda_are_those_of_the_cpu(graphs, rows):
    on_gpu, on_cpu = (graph(*inputs([-1] * rows)) for graph in graphs)
    clear = np.abs(np.diff(np.sort(on_cpu["task_probs"], 1)[:, -2:], axis=1))[:, 0] > 1e-3
    assert clear.any()
    assert (on_gpu["task"] == on_cpu["task"])[clear].all()
    for name in ("task_probs", "label_probs", "logits"):
        assert np.abs(on_gpu[name] - on_cpu[name])[clear].max() <= EXPORTED


def test_one_batch_after_the_other_gets_its_own_answers(graphs):
    first, second, again = (
        graphs[0](*inputs([-1] * 8)), graphs[0](*inputs([2] * 8)), graphs[0](*inputs([-1] * 8))
    )  # fmt: skip
    assert second["task"].tolist() == [2] * 8
    for name, value in first.items():
        assert value.tobytes() == again[name].tobytes()


def test_a_prefix_on_cuda_gives_the_bits_of_the_whole_graph(graphs):
    cuda = graphs[0]
    by_prefix, whole = cuda(*inputs([0, 1] * 8)), cuda(*inputs([0, 1] * 8), whole=True)
    for row, classes in enumerate([2, 3] * 8):
        assert by_prefix["logits"][row, :classes].tobytes() == whole["logits"][row, :classes].tobytes()
