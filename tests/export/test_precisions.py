"""Precisions below float32: what they change is measured, said, and never done to the network itself."""

import json
import logging
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from typer.testing import CliRunner

from eideticnet import EideticNetwork, Inputs, batches
from eideticnet.export.errors import ExportError
from eideticnet.export.graph.session import session
from eideticnet.export.lowering.body import body, example, owners
from eideticnet.export.lowering.precision import quantised
from eideticnet.export.lowering.to_onnx import to_onnx
from eideticnet.export.proof.verify import verify
from eideticnet.menu import app
from eideticnet.models import mlp
from tests.support.archived_networks import add_task, archived, bundled, normalised
from tests.support.example_counts import examples, often
from tests.support.small_networks import LIGHT, QUICK, fit, held_out, names, task_data, trained
from tests.support.small_trunks import FEATURES, Functional, Mlp, Normalised
from tests.support.tolerances import HALF
from tests.support.zoo_networks import zoo_net


def written(folder, net=None, **options):
    folder.mkdir(parents=True, exist_ok=True)
    bundled(net or trained(3), folder, name="net", model_version="1.0", **options)
    return json.loads((folder / "bundle.json").read_text())


def routed(folder, x):
    """The answers of the ONNX graph in ``folder``, with no code of this project."""
    run = onnxruntime.InferenceSession(folder / "model.onnx")
    feeds = {"x": x, "pinned_task": np.full(len(x), -1), "threshold": np.zeros(len(x), np.float32)}
    return dict(zip((o.name for o in run.get_outputs()), run.run(None, feeds), strict=True))


def real_inputs(net, rows=48):
    """x, task and label of what the network was taught."""
    parts = [(i, *task_data(i, len(t.classes), rows)) for i, t in enumerate(net.tasks)]
    return {
        "x": np.concatenate([x.numpy() for _, x, _ in parts]),
        "task": np.concatenate([np.full(rows, i) for i, _, _ in parts]),
        "label": np.concatenate([y.numpy() for _, _, y in parts]),
    }


@pytest.mark.parametrize(
    ("format", "precision"),
    [("onnx", "float16"), ("torchscript", "float16"), ("torchscript", "bfloat16"), ("pt2", "bfloat16")],
)
def test_a_half_type_stays_near_the_network_and_leaves_it_as_it_was(format, precision, tmp_path):
    net, x = trained(3), held_out(20)
    before = net(x)
    bundle = written(tmp_path, net, format=format, precision=precision)
    net.verify()
    assert all(torch.equal(a, b) for a, b in zip(before, net(x), strict=True))
    assert bundle["precision"] == precision
    assert 0 < bundle["accuracy"]["max_difference"]["logits"] <= HALF[precision]
    assert "batch_dependent" not in bundle
    assert bundle["limits"] == {"max_instances": 64}


def test_a_graph_in_float16_takes_and_gives_float32(tmp_path):
    written(tmp_path, precision="float16")
    out = routed(tmp_path, held_out(5).numpy())
    assert {name: value.dtype.name for name, value in out.items()} == {
        **dict.fromkeys(("task", "label"), "int64"),
        **dict.fromkeys(("task_probs", "label_probs", "logits"), "float32"),
    }


def test_every_weight_is_stored_in_the_half_type(tmp_path):
    written(tmp_path, trained(2), precision="float16")
    stored = onnx.load(tmp_path / "model.onnx").graph.initializer
    kinds = {t.data_type for t in stored if not t.name.startswith("tail_")}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert onnx.TensorProto.FLOAT not in kinds


def test_inputs_beyond_the_range_of_float16_are_normalised_before_they_are_cast(tmp_path):
    from eideticnet import Inputs
    from eideticnet.checkpoint import Parts
    from eideticnet.network import EideticNetwork as Network

    net = trained(2)
    inputs = Inputs((6,), mean=(0.0,), std=(1e6,))
    large = Network.restore(Parts(net.program, inputs, net.seed, net.learned, {}))
    written(tmp_path, large, precision="float16")
    x = 1e6 * held_out(6)
    out = routed(tmp_path, x.numpy())
    assert np.abs(out["logits"] - large(x).logits.numpy()).max() <= HALF["float16"]


class Kept(Mlp):
    """Kept within what half precision doesn't hold."""

    def forward(self, x):
        y = super().forward(x).clamp(-1e9, 1e9)
        return y.masked_fill(y > 1e9, -1e9)


@pytest.mark.parametrize(("format", "precision"), [("onnx", "float16"), ("torchscript", "bfloat16")])
def test_literals_beyond_a_half_type_end_where_it_ends(format, precision, tmp_path):
    bundle = written(tmp_path, trained(2, trunk=Kept), format=format, precision=precision)
    assert bundle["accuracy"]["max_difference"]["logits"] <= HALF[precision]


@cache
def clipped():
    """A network that is deep enough for a clip beyond what half precision holds."""
    torch.manual_seed(0)
    inputs = Inputs((FEATURES,), low=-9, high=9)
    net = EideticNetwork(mlp(FEATURES, (12,) * 10), torch.zeros(2, FEATURES), inputs=inputs)
    loader = batches(held_out(24).clamp(-9, 9), torch.arange(24) % 2, 8)
    net.train_task("a", loader, names(2), training=QUICK, pruning=LIGHT)
    net.fit_router({"a": loader}, training=QUICK)
    return net


@pytest.mark.parametrize(
    ("format", "precision"),
    [("onnx", "float16"), ("onnx", "int8"), ("torchscript", "float32"), ("pt2", "float32")],
)
def test_a_network_with_clips_is_exported(format, precision, tmp_path):
    assert any(step.name.endswith("_clipped") for step in clipped().program.steps)
    bundle = written(tmp_path, clipped(), format=format, precision=precision)
    if precision == "float16":  # float32 is tried beside the network before it is written
        assert bundle["accuracy"]["max_difference"]["logits"] <= HALF[precision]


@pytest.mark.parametrize("kind", ["fused attention", "convolutions"])
def test_constants_and_tokens_pass_through_a_half_type(kind, tmp_path):
    bundle = written(tmp_path, zoo_net(kind), precision="float16")
    assert bundle["accuracy"]["max_difference"]["logits"] <= HALF["float16"]


@pytest.mark.parametrize("trunk", often([Mlp, Functional], [Mlp]))
def test_a_precision_that_the_runtime_lacks_is_refused_by_name(trunk, tmp_path):
    with pytest.raises(ExportError, match=r"precision bfloat16: onnxruntime \d.* can't run the graph"):
        written(tmp_path, trained(3, trunk=trunk), precision="bfloat16")


@pytest.mark.parametrize("format", ["torchscript", "pt2"])
def test_int8_is_refused_for_the_formats_of_torch(format, tmp_path):
    with pytest.raises(ExportError, match=f"int8 .* the format is {format}"):
        written(tmp_path, format=format, precision="int8")


def test_int8_gives_the_same_bytes_each_time_and_leaves_nothing_behind(tmp_path, capfd, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    level = logging.getLogger().level
    model = to_onnx(body(trained(2)), example(trained(2)), owners(trained(2)))
    whole = model.SerializeToString(deterministic=True)
    first, second = (quantised(model).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    assert model.SerializeToString(deterministic=True) == whole
    assert list(scratch.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().level == level


@pytest.fixture(scope="module")
def int8(tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    return folder, written(folder, precision="int8")


def test_an_int8_bundle_says_that_answers_depend_on_the_batch_and_is_measured_as_it_is_served(int8):
    _, bundle = int8
    assert bundle["batch_dependent"] is True
    assert bundle["limits"] == {"max_instances": 64, "max_batch": 1}
    assert bundle["accuracy"]["batch"] == 1
    assert all("digest" in task for task in bundle["tasks"])


def test_an_int8_answer_depends_on_its_batchmates(int8):
    folder, _ = int8
    x = held_out(1).numpy()
    alone = routed(folder, x)["logits"][0]
    beside = routed(folder, np.concatenate([x, 100 * x]))["logits"][0]
    assert np.abs(alone - beside).max() > 1e-3
    again = routed(folder, x)["logits"][0]
    assert alone.tobytes() == again.tobytes()


@pytest.mark.parametrize("kind", ["convolutions", pytest.param("lstm", marks=pytest.mark.slow)])
def test_int8_runs_convolutions_and_recurrences(kind, tmp_path):
    bundle = written(tmp_path, zoo_net(kind), precision="int8")
    assert bundle["accuracy"]["max_difference"]["logits"] < 0.5
    assert bundle["accuracy"]["max_difference"]["logits"] > 0


def test_a_layer_that_is_used_twice_is_quantised_as_it_is_each_time(tmp_path):
    """ONNX Runtime's tool transposes a weight as often as it meets it; this one is square."""
    bundle = written(tmp_path, trained(1, (6, 6), Normalised), precision="int8")
    assert bundle["accuracy"]["max_difference"]["logits"] < 0.1


@pytest.mark.parametrize("suffix", often([".npz", ".safetensors"], [".safetensors"]))
def test_accuracy_on_real_inputs_is_what_counting_gives(suffix, tmp_path):
    net = trained(3)
    data, file = real_inputs(net), tmp_path / f"real{suffix}"
    if suffix == ".npz":
        np.savez(file, **data)
    else:
        save_file(data, file)
    folder = tmp_path / "bundle"
    found = written(folder, net, precision="float16", routing_data=file)["accuracy"]
    eager = net(torch.from_numpy(data["x"]))
    graph = routed(folder, data["x"])

    def right(task, label):
        return float(((np.asarray(task) == data["task"]) & (np.asarray(label) == data["label"])).mean())

    assert found["accuracy"] == {
        "network": right(eager.task, eager.label),
        "graph": right(graph["task"], graph["label"]),
    }
    assert found["same_task"] == float((graph["task"] == eager.task.numpy()).mean())
    assert (found["rows"], found["inputs"]) == (len(data["x"]), str(file))
    assert sorted(p.name for p in folder.iterdir()) == [
        "bundle.json",
        "model.onnx",
        "probes.safetensors",
    ]  # what only judges does not travel


@pytest.mark.parametrize("precision", [pytest.param("float16", marks=pytest.mark.slow), "int8"])
def test_nested_blocks_of_another_precision_are_proven_between_versions_and_not_against_float32(
    precision, tmp_path
):
    net = normalised(2)
    plain = archived(net, tmp_path / "plain")
    old = archived(net, tmp_path / "old", precision=precision)
    add_task(net)
    fit(net)
    new = archived(net, tmp_path / "new", "2.0", precision=precision)
    proof = verify(new, old)
    assert (proof.verdict, proof.reasons) == ("proven", [])
    assert verify(new, plain).verdict == "not comparable"


def test_a_float32_bundle_of_nested_blocks_needs_no_such_figures(tmp_path):
    assert "accuracy" not in written(tmp_path)


@examples(8, 20)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 10))
def test_any_row_alone_stays_near_the_network_in_int8(int8_session, seed, scale):
    net, run = int8_session
    x = scale * torch.randn(1, 6, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for owner, logits in zip(owners(net), body(net)(x), strict=True):
            error = np.abs(run({"x": x.numpy()})[f"logits_{owner}"] - logits.numpy()).max()
            assert error <= 0.1 * max(1.0, float(logits.abs().max()))


@pytest.fixture(scope="module")
def int8_session():
    net = trained(3)
    return net, session(quantised(to_onnx(body(net), example(net), owners(net))))


def test_the_command_line_shows_the_figures_and_warns_of_int8(tmp_path):
    net = trained(2)
    net.save(tmp_path / "run")
    data = real_inputs(EideticNetwork.load(tmp_path / "run"))
    np.savez(tmp_path / "real.npz", **data)
    command = ["export", str(tmp_path / "run"), "--store", str(tmp_path), "--precision", "int8"]
    result = CliRunner().invoke(app, [*command, "--routing-data", str(tmp_path / "real.npz")])
    assert result.exit_code == 0
    assert result.stdout.strip() == str(tmp_path / "run-2.0.mar")
    shown = " ".join(result.stderr.split())
    assert "depends on its batchmates" in shown
    assert "accuracy of the network" in shown
    assert "accuracy of the graph" in shown
    assert f"on {len(data['x'])} rows" in shown
    assert Path(result.stdout.strip()).exists()
