"""What goes wrong in exporters, silently or late: each of it is right here, or refused."""

import json
import os
import subprocess
import sys
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from eideticnet import DataError, EideticNetwork, Inputs, UnsupportedError
from eideticnet.export.bundle.writer import write_bundle
from eideticnet.export.errors import ArchiveError, ExportError
from eideticnet.export.lowering.body import body, example, owners
from eideticnet.export.lowering.to_onnx import to_onnx
from eideticnet.trace.tracing import trace
from tests.support.exported_networks import graph, graph_of, held_out, learn, network, pinned, route
from tests.support.small_networks import held_out as random_rows
from tests.support.small_networks import trained
from tests.support.tolerances import EXPORTED

ROOT = Path(__file__).parents[2]
FORMATS = {"onnx": "model.onnx", "torchscript": "model.pt", "pt2": "model.pt2"}


@pytest.fixture(scope="module")
def lstm():
    """Two tasks on an embedding and an LSTM, with a linear router."""
    net = network("zoo/lstm")
    route(net, "zoo/lstm", "linear")
    return net


@pytest.fixture(scope="module", params=FORMATS)
def written(request, lstm, tmp_path_factory):
    """Format, bundle and what came to standard error while it was written, warnings being errors."""
    folder = tmp_path_factory.mktemp("traps")
    with warnings.catch_warnings(), stderr_in(folder / "stderr") as said:
        warnings.simplefilter("error")
        write_bundle(lstm, folder, name="net", model_version="1.0", format=request.param)
    text = said.read_text()
    said.unlink()
    return request.param, folder, text


@contextmanager
def stderr_in(path):
    """File descriptor 2 goes to a file."""
    kept = os.dup(2)
    with path.open("w") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield path
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def loaded(folder):
    return graph_of(folder, json.loads((folder / "bundle.json").read_text()))


def test_an_lstms_export_says_nothing(written):
    assert written[2] == ""


def test_a_graph_is_one_file(written):
    kind, folder, _ = written
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["bundle.json", FORMATS[kind], "probes.safetensors"]
    )


def test_no_file_tells_a_path_of_the_machine_that_wrote_it(written):
    kind, folder, _ = written
    path = folder / FORMATS[kind]
    if kind == "onnx":
        parts = [path.read_bytes()]
    else:
        with zipfile.ZipFile(path) as archive:
            parts = [archive.read(name) for name in archive.namelist()]
    for part in parts:
        for trace_of in (b"site-packages", str(ROOT).encode(), str(folder).encode(), b"/recurrent.py"):
            assert trace_of not in part


def test_an_lstm_takes_any_number_of_rows(written, lstm):
    _, folder, _ = written
    run = loaded(folder)
    for rows in (1, 2, 7, 40):
        x = held_out("zoo/lstm", rows)
        logits = run(x.numpy(), np.zeros(rows, np.int64), np.zeros(rows, np.float32))["logits"]
        expected = lstm(x, torch.zeros(rows, dtype=torch.int64)).logits.numpy()
        assert np.allclose(logits, expected, rtol=0, atol=EXPORTED)


def test_recurrent_layers_stay_operators_of_the_graph(lstm):
    assert "LSTM" in {n.op_type for n in to_onnx(body(lstm), example(lstm), owners(lstm)).graph.node}


def test_an_lstm_exported_from_one_row_is_refused(lstm):
    """It would be a constant batch of one; our example has three rows."""
    with pytest.raises(ExportError, match="batch dimension of 'x' became a constant"):
        to_onnx(body(lstm), example(lstm, 1), owners(lstm))
    assert len(example(lstm)) > 1


def test_a_sequence_of_another_length_is_refused(tmp_path):
    """The length is part of the input's shape, for an unrolled RNN too."""
    kind = "zoo/rnn"
    net = network(kind, 1)
    route(net, kind, "linear")
    made = graph(net, tmp_path / "bundle")
    assert [d.dim_value for d in made.model.graph.input[0].type.tensor_type.shape.dim[1:]] == [7]
    for length in (1, 6, 8):
        x = torch.zeros(2, length, dtype=torch.int64)
        with pytest.raises(ArchiveError, match="can't run"):
            pinned(made.run, x, 0, threshold=np.zeros(2, np.float32))
    with pytest.raises(DataError, match="give one size"):
        Inputs((-1,), "int64")


class Tokens(nn.Module):
    """An embedding and a recurrent layer with options."""

    def __init__(self, **options):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(11, 6), nn.LSTM(6, 8, batch_first=True, **options)

    def forward(self, x):
        return self.lstm(self.embed(x))[0].mean(1)


def test_projections_of_an_lstm_are_refused_before_anything_is_trained():
    with pytest.raises(UnsupportedError, match="proj_size is not supported; use a Linear"):
        EideticNetwork(Tokens(proj_size=4), held_out("zoo/lstm", 2))


def test_a_batch_norm_without_running_statistics_is_refused_before_anything_is_trained():
    trunk = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False))
    with pytest.raises(UnsupportedError, match="track_running_stats=True"):
        EideticNetwork(trunk, random_rows(4))


class OverRows(nn.Module):
    """A trunk that computes with its rows."""

    def __init__(self, function):
        super().__init__()
        self.linear, self.function = nn.Linear(6, 8), function

    def forward(self, x):
        return self.function(self.linear(x), x.shape[0])


@pytest.mark.parametrize(
    "function",
    [
        lambda h, rows: h / rows,
        lambda h, rows: h - h.mean(0),
        lambda h, rows: h.view(4, -1),
        lambda h, rows: h + torch.arange(rows)[:, None],
        lambda h, rows: h if rows > 3 else -h,
        lambda h, rows: h.flip(0),
        lambda h, rows: h[:2].mean(0) + h,
    ],
)
@pytest.mark.parametrize("rows", [1, 4])
def test_a_trunk_that_computes_with_its_rows_is_refused(function, rows):
    with pytest.raises(UnsupportedError):
        trace(OverRows(function), random_rows(rows))


def test_a_network_in_training_mode_is_exported_in_evaluation_mode_and_left_as_it_was(tmp_path):
    net, x = trained(2), random_rows(7)
    expected = net.eval()(x)
    for kind in FORMATS:
        folder = tmp_path / kind
        folder.mkdir()
        net.train()
        write_bundle(net, folder, name="net", model_version="1.0", format=kind)
        assert net.training
        out = loaded(folder)(x.numpy(), np.full(7, -1), np.zeros(7, np.float32))
        assert np.allclose(out["logits"], expected.logits.numpy(), rtol=0, atol=EXPORTED)
        assert out["task"].tolist() == expected.task.tolist()
    assert not {"Dropout", "BatchNormalization"}.intersection(
        node.op_type for node in onnx.load(tmp_path / "onnx/model.onnx").graph.node
    )
    net.eval()
    write_bundle(net, tmp_path, name="net", model_version="1.0", format="torchscript")
    assert not net.training


@pytest.mark.slow
def test_the_fast_path_of_an_encoder_is_in_no_graph():
    net = network("zoo/transformer", 1)
    route(net, "zoo/transformer", "linear")
    with torch.no_grad():
        without = to_onnx(body(net), example(net), owners(net))
    with torch.enable_grad():
        assert to_onnx(body(net), example(net), owners(net)) == without
    assert {n.domain for n in without.graph.node} == {""}


@pytest.mark.parametrize("kind", ["zoo/conv1d", "zoo/lstm"])
def test_a_task_that_owns_nothing_in_the_trunk_is_exported(kind, tmp_path):
    net = network(kind, 0)
    learn(net, kind, pruning=None)
    learn(net, kind)
    assert {row["task 1"] for group, row in net.capacity().items() if group != "total"} == {0}
    route(net, kind)
    made, x = graph(net, tmp_path / "bundle"), held_out(kind, 5)
    for task in (0, 1):
        expected = net.task_logits(x, f"task {task}").numpy()
        logits = pinned(made.run, x, task, threshold=np.zeros(5, np.float32))
        assert np.allclose(np.frombuffer(logits, np.float32).reshape(5, -1), expected, rtol=0, atol=EXPORTED)


def test_a_network_exported_twice_gives_the_same_bytes(lstm):
    first, second = (to_onnx(body(lstm), example(lstm), owners(lstm)) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


@pytest.mark.slow
def test_a_network_exported_in_another_process_gives_the_same_bytes(lstm, tmp_path):
    lstm.save(tmp_path / "run")
    (tmp_path / "here").mkdir()
    write_bundle(lstm, tmp_path / "here", name="net", model_version="1.0", prefixes=[1])
    code = """
import sys
from pathlib import Path
from eideticnet import EideticNetwork
from eideticnet.export.bundle.writer import write_bundle
run, folder = map(Path, sys.argv[1:])
folder.mkdir()
write_bundle(EideticNetwork.load(run), folder, name="net", model_version="1.0", prefixes=[1])
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "5"}
    command = [sys.executable, "-c", code, str(tmp_path / "run"), str(tmp_path / "there")]
    subprocess.run(command, check=True, env=environment, cwd=ROOT)
    for file in ("model.onnx", "prefix/1.onnx", "bundle.json"):
        assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes()
