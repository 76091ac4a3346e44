"""The smallest graph that will do is run, in sizes that suit the device, and answers stay what they are."""

import json
import logging

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eidetic_runtime.device import ON_CUDA, Settings
from eidetic_runtime.graph import Graph, pad, pieces
from eidetic_runtime.onnx_graph import OnnxGraph
from tests.support.handler_worker import make_bundle
from tests.support.tolerances import EXPORTED

CLASSES = [2, 3, 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("graphs") / "prefixes", prefixes=(1, 2))


@pytest.fixture(scope="module")
def bundle(folder):
    return json.loads((folder / "bundle.json").read_text())


def load(folder, bundle, **options):
    return Graph(folder, bundle, Settings(**{"device": "cpu", **options}))


@pytest.fixture(scope="module")
def graph(folder, bundle):
    return load(folder, bundle)


@pytest.fixture(scope="module")
def plain(folder, bundle):
    """The same bundle without prefixes."""
    return load(folder, {**bundle, "prefixes": []})


@pytest.fixture(scope="module")
def bucketed(folder, bundle):
    return load(folder, bundle, buckets=(4, 16))


def inputs(tasks, seed=0):
    x = np.random.default_rng(seed).normal(size=(len(tasks), 6)).astype(np.float32)
    return x, np.array(tasks, np.int64), np.zeros(len(tasks), np.float32)


def own_logits(outputs, row, task):
    return outputs["logits"][row, : CLASSES[task]].tobytes()


pinned_rows = st.lists(st.integers(0, 2), min_size=1, max_size=40)


@given(tasks=pinned_rows, seed=st.integers(0, 99))
def test_pinned_requests_get_the_bits_of_the_whole_graph_at_the_same_batch_size(graph, plain, tasks, seed):
    by_prefix, whole = graph(*inputs(tasks, seed)), plain(*inputs(tasks, seed))
    assert by_prefix["task"].tolist() == whole["task"].tolist() == tasks
    assert by_prefix["label"].tolist() == whole["label"].tolist()
    for row, task in enumerate(tasks):
        assert own_logits(by_prefix, row, task) == own_logits(whole, row, task)


@given(tasks=st.lists(st.integers(-1, 2), min_size=1, max_size=20))
def test_a_prefix_runs_only_where_every_request_is_pinned_to_its_tasks(graph, tasks):
    outputs = graph(*inputs(tasks))
    assert ("task_probs" in outputs) == (min(tasks) < 0 or max(tasks) == 2)
    width = {0: 2, 1: 3}.get(max(tasks), 3) if min(tasks) >= 0 else 3
    assert outputs["logits"].shape[1] == width  # the first prefix knows two classes


def test_the_whole_graph_runs_where_it_is_asked_for(graph):
    assert "task_probs" in graph(*inputs([0, 0]), whole=True)


@given(tasks=st.lists(st.integers(-1, 2), min_size=1, max_size=40), seed=st.integers(0, 99))
def test_padding_gives_the_bits_of_any_other_batch_of_that_size(bucketed, plain, tasks, seed):
    padded = bucketed(*inputs(tasks, seed), whole=True)
    for start, stop, size in pieces(len(tasks), (4, 16), None):
        x, task, threshold = (a[start:stop] for a in inputs(tasks, seed))
        strangers = inputs([-1] * (size - len(x)), seed + 1)
        batch = [np.concatenate(pair) for pair in zip((x, task, threshold), strangers, strict=True)]
        unpadded = plain(*batch)
        for name, value in padded.items():
            assert value[start:stop].tobytes() == unpadded[name][: len(x)].tobytes(), name


@given(rows=st.integers(1, 50), seed=st.integers(0, 99))
def test_padded_answers_are_the_unpadded_ones_within_the_tolerance(bucketed, plain, rows, seed):
    padded, unpadded = bucketed(*inputs([-1] * rows, seed)), plain(*inputs([-1] * rows, seed))
    for name in ("task_probs", "label_probs", "logits"):
        assert padded[name].shape == unpadded[name].shape
        same = padded["task"] == unpadded["task"]
        assert np.abs(padded[name] - unpadded[name])[same].max(initial=0) <= EXPORTED


@given(
    rows=st.integers(1, 2000),
    buckets=st.sets(st.integers(1, 300), max_size=6).map(sorted),
    most=st.none() | st.integers(1, 50),
)
def test_every_row_is_run_once_in_a_piece_that_fits(rows, buckets, most):
    found = list(pieces(rows, buckets, most))
    assert [row for start, stop, _ in found for row in range(start, stop)] == list(range(rows))
    for start, stop, padded in found:
        assert stop - start <= padded
        assert most is None or stop - start <= most
        smaller = [b for b in buckets if stop - start <= b < padded]
        assert not smaller
        assert padded in buckets if buckets else padded == stop - start
    assert len(found) == 1 or buckets or most


@given(rows=st.integers(1, 9), more=st.integers(0, 9))
def test_padding_repeats_a_row_that_is_there(rows, more):
    array = np.random.default_rng(rows).normal(size=(rows, 3))
    padded = pad(array, rows + more)
    assert padded[:rows].tobytes() == array.tobytes()
    assert (padded[rows:] == array[0]).all()


@pytest.mark.parametrize("rows", [1, 7, 32])
def test_buffers_on_the_device_give_the_bits_of_a_plain_run(folder, rows):
    """On the CPU, by the code that runs on CUDA."""
    graph = OnnxGraph(folder / "model.onnx", "cpu", 0, 1)
    batches = [dict(zip(graph.inputs, inputs([-1] * rows, seed), strict=True)) for seed in range(3)]
    bound = [graph.run_bound(batch) for batch in batches]  # one after the other into the same buffers
    for batch, found in zip(batches, bound, strict=True):
        expected = graph.run(batch)
        assert found.keys() == expected.keys()
        for name, value in found.items():
            assert torch.equal(torch.from_numpy(value), torch.from_numpy(expected[name]))


def test_a_graph_whose_answers_depend_on_the_batch_runs_its_rows_apart(tmp_path):
    folder = make_bundle(tmp_path / "int8", precision="int8")
    bundle = json.loads((folder / "bundle.json").read_text())
    assert bundle["limits"]["max_batch"] == 1
    rows = inputs([-1] * 5)
    for options in ({}, {"buckets": (4,)}):
        graph = load(folder, bundle, **options)
        together = graph(*rows)
        for i in range(5):
            alone = graph(*(a[i : i + 1] for a in rows))
            for name, value in together.items():
                assert value[i].tobytes() == alone[name][0].tobytes(), (name, options)


@pytest.mark.parametrize("format", ["onnx", "torchscript", "pt2"])
def test_without_a_gpu_one_line_says_so_and_the_cpu_answers(tmp_path, caplog, format):
    cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers() or torch.cuda.is_available()
    if cuda:
        pytest.skip("there is a GPU")
    folder = make_bundle(tmp_path / format, format=format)
    bundle = json.loads((folder / "bundle.json").read_text())
    with caplog.at_level(logging.INFO, "eidetic"):
        graph = load(folder, bundle, device="cuda")
    lines = [(r.levelname, r.getMessage()) for r in caplog.records if r.name.startswith("eidetic")]
    assert lines == [("WARNING", f"runs on the CPU: {graph.problem}")]
    assert "CUDA" in graph.problem
    assert graph.problem.startswith("this build of ONNX Runtime has" if format == "onnx" else "torch 2")
    assert (graph.device, graph.buckets) == ("cpu", ())
    assert graph(*inputs([-1, 0, 2]))["task"].tolist()[1:] == [0, 2]


class FakeRuntime:
    """ONNX Runtime with CUDA, of which libraries may be ``missing``; ``fails``: it raises instead."""

    SessionOptions = onnxruntime.SessionOptions

    def __init__(self, missing=(), fails="", works=True):
        self.missing, self.fails, self.works, self.asked = missing, fails, works, []

    def preload_dlls(self, directory=None):
        self.asked.append("libraries")
        for name in self.missing:
            print(f"Failed to load /wheels/{name}: it is damaged\nFailed to load {name}: cannot open")

    def get_available_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"] if self.asked else []

    def InferenceSession(self, path, options, providers):
        on_cuda = len(providers) > 1
        self.asked.append("CUDA" if on_cuda else "CPU")
        if on_cuda and self.fails:
            raise RuntimeError(self.fails)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        if on_cuda and self.works:
            session.get_providers = lambda: [providers[0][0], "CPUExecutionProvider"]
        return session


LACKS = "not found: libcublasLt.so.13, libcudnn.so.9"


@pytest.mark.parametrize(
    ("runtime", "device", "line"),
    [
        (FakeRuntime(), "auto", ("INFO", "runs on CUDA device 0: device is auto")),
        (FakeRuntime(), "cuda", ("INFO", "runs on CUDA device 0: device is cuda")),
        (FakeRuntime(), "cpu", ("INFO", "runs on the CPU: device is cpu")),
        (
            FakeRuntime(("libcublasLt.so.13", "libcudnn.so.9"), works=False), "cuda",
            ("WARNING", f"runs on the CPU: ONNX Runtime could not start CUDA; {LACKS}"),
        ),
        (
            FakeRuntime(fails="CUDA failure 100: no CUDA-capable device is detected\n in a.cc"), "auto",
            ("INFO", "runs on the CPU: ONNX Runtime could not start CUDA; its libraries were found: "
             "is there a GPU? (CUDA failure 100: no CUDA-capable device is detected)"),
        ),
    ],
)  # fmt: skip
def test_one_line_of_the_log_says_which_device_serves_and_why(
    folder, bundle, caplog, monkeypatch, runtime, device, line
):
    from eidetic_runtime import onnx_graph

    monkeypatch.setattr(onnx_graph, "onnxruntime", runtime)
    with caplog.at_level(logging.INFO, "eidetic"):
        graph = load(folder, {**bundle, "prefixes": []}, device=device)
    lines = [(r.levelname, r.getMessage()) for r in caplog.records if r.name.startswith("eidetic")]
    assert lines == [line]
    assert graph.device == ("cuda" if "on CUDA" in line[1] else "cpu")
    assert (runtime.asked[:1] == ["libraries"]) == (device != "cpu")  # before any session is made
    if graph.device == "cpu":
        assert runtime.asked[-1] == "CPU"
        assert graph(*inputs([-1, 0, 2]))["task"].tolist()[1:] == [0, 2]


def test_sizes_that_a_gpu_runs_are_ascending():
    assert list(ON_CUDA) == sorted(set(ON_CUDA))


def test_a_bundle_of_an_unknown_format_is_refused(folder, bundle):
    with pytest.raises(ValueError, match="format 'h5' is not one of onnx, torchscript, pt2"):
        load(folder, {**bundle, "format": "h5"})
