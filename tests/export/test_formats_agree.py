"""Eager, ONNX Runtime and TorchScript give the same answers."""

import json
import warnings
from functools import cache
from itertools import product

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eideticnet import EideticNetwork, NotReadyError, Routing
from eideticnet.export.bundle.writer import write_bundle
from eideticnet.export.errors import ExportError
from tests.support.example_counts import examples, often
from tests.support.exported_networks import graph_of
from tests.support.small_networks import LIGHT, QUICK, fit, held_out, names, task_loader, trained
from tests.support.small_trunks import TRUNKS
from tests.support.tolerances import EXPORTED

FORMATS = ["onnx", "torchscript", "pt2"]


def exported(net, folder, format):
    folder.mkdir()
    write_bundle(net, folder, name="net", model_version="1.0", format=format)
    bundle = json.loads((folder / "bundle.json").read_text())
    return graph_of(folder, bundle)


def assert_agree(net, run, x, task, threshold):
    eager = net(x, task, threshold)._asdict()
    outputs = run(x.numpy(), task.numpy(), threshold.numpy())
    assert list(outputs) == list(eager)
    for name, expected in eager.items():
        if expected.dtype == torch.int64:
            assert outputs[name].tolist() == expected.tolist(), name
        else:
            assert np.allclose(outputs[name], expected.numpy(), rtol=0, atol=EXPORTED), name
            assert outputs[name].shape == expected.shape


@pytest.mark.parametrize(
    ("trunk", "format"),
    often(
        product(TRUNKS, FORMATS),
        [(TRUNKS[0], "torchscript"), *product([TRUNKS[0], *TRUNKS[2:]], ["onnx"])],
    ),
)
def test_an_exported_network_answers_like_the_eager_one_at_any_batch_size(trunk, format, tmp_path):
    net = trained(3, trunk=trunk)
    run = exported(net, tmp_path / format, format)
    for rows in (1, 2, 7, 32):
        x = held_out(rows)
        assert_agree(net, run, x, torch.arange(rows) % 4 - 1, torch.linspace(0, 1, rows))


@examples(10, 30)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 40), scale=st.floats(0.01, 30))
def test_any_input_is_routed_like_by_the_eager_network(agreeing, seed, rows, scale):
    net, runs = agreeing
    generator = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(rows, 6, generator=generator)
    task = torch.randint(-1, 3, (rows,), generator=generator)
    threshold = torch.rand(rows, generator=generator)
    best = net(x).task_probs.topk(2, 1).values
    clear = (best[:, 0] - best[:, 1] > EXPORTED) & ((best[:, 0] - threshold).abs() > EXPORTED)
    if clear.any():
        for run in runs:
            assert_agree(net, run, x[clear], task[clear], threshold[clear])


@cache
def routed(routing):
    """A network with such a router, for all formats."""
    of = "first" if routing.router == "experts" else "input"
    net = trained(3, router=False, moments=16, moments_of=of)
    loaders = {t.name: task_loader(i, len(t.classes)) for i, t in enumerate(net.tasks)}
    net.fit_router(loaders, routing=routing, training=QUICK, validation=loaders)
    return net


ROUTINGS = [
    Routing("linear", "joint"),
    Routing("taps", "joint"),
    Routing("moments", "hard"),
    Routing("experts", "joint"),
    Routing("none", "entropy"),
    Routing("block", "joint", false_rejections=0.3),
]


@pytest.mark.parametrize(
    ("routing", "format"),
    often(
        product(ROUTINGS, FORMATS),
        [*product(ROUTINGS[1::2], ["onnx"]), (ROUTINGS[3], "torchscript"), (ROUTINGS[5], "pt2")],
    ),
    ids=lambda value: f"{value.router}-{value.decision}" if isinstance(value, Routing) else value,
)
def test_every_router_and_decision_is_in_the_graph(routing, format, tmp_path):
    net = routed(routing)
    run, x = exported(net, tmp_path / format, format), held_out(30)
    best = net(x).task_probs.topk(2, 1).values
    x = x[best[:, 0] - best[:, 1] > EXPORTED]
    assert len(x) > 10
    assert_agree(net, run, x, torch.arange(len(x)) % 4 - 1, torch.zeros(len(x)))
    bundle = json.loads((tmp_path / format / "bundle.json").read_text())
    assert bundle["routing"]["rule"] == routing.decision
    assert bundle["routing"]["threshold"] == net.learned.routing.threshold
    default = torch.full((len(x),), bundle["routing"]["threshold"])
    answered = run(x.numpy(), np.full(len(x), -1), default.numpy())["task"]
    assert answered.tolist() == net(x).task.tolist()


@pytest.fixture(scope="module")
def agreeing(tmp_path_factory):
    net, folder = trained(3), tmp_path_factory.mktemp("agreeing")
    return net, [exported(net, folder / f, f) for f in FORMATS]


def test_plain_onnx_runtime_needs_no_code_of_ours(tmp_path):
    net = trained(2)
    write_bundle(net, tmp_path, name="net", model_version="1.0")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    x = held_out(4).numpy()
    feeds = {"x": x, "pinned_task": np.full(4, -1), "threshold": np.zeros(4, np.float32)}
    task, label, *_ = session.run(None, feeds)
    assert task.tolist() == net(held_out(4)).task.tolist()
    assert label.tolist() == net(held_out(4)).label.tolist()


def test_the_onnx_file_is_one_file_with_dynamic_batch_and_no_paths_in_it(tmp_path):
    write_bundle(trained(2), tmp_path, name="net", model_version="1.0")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle.json", "model.onnx", "probes.safetensors"]
    model = onnx.load(tmp_path / "model.onnx")
    assert all(i.type.tensor_type.shape.dim[0].dim_param for i in model.graph.input)
    raw = (tmp_path / "model.onnx").read_bytes()
    assert b"site-packages" not in raw
    assert str(tmp_path).encode() not in raw
    assert b"/network.py" not in raw


def test_the_frozen_tasks_logits_in_onnx_do_not_change_when_a_task_is_added(tmp_path):
    net = trained(2)
    x = held_out(16)
    before = exported(net, tmp_path / "two", "onnx")
    net.train_task("third", task_loader(8), names(2), training=QUICK, pruning=LIGHT)
    net.fit_router(
        {t.name: task_loader(i, len(t.classes)) for i, t in enumerate(net.tasks)},
        training=QUICK,
    )
    after = exported(net, tmp_path / "three", "onnx")
    for task in (0, 1):
        arguments = x.numpy(), np.full(16, task), np.zeros(16, np.float32)
        classes = len(net.tasks[task].classes)
        old, new = before(*arguments)["logits"], after(*arguments)["logits"]
        assert old[:, :classes].tobytes() == new[:, :classes].tobytes()


def test_a_network_whose_router_knows_less_than_its_tasks_is_not_exported(tmp_path):
    net = trained(1)
    net.train_task("new", task_loader(5), names(2), training=QUICK, pruning=LIGHT)
    with pytest.raises(NotReadyError, match="fit_router"):
        write_bundle(net, tmp_path, name="net", model_version="1.0")


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", "-x", "x" * 65, "é"])
def test_a_name_that_would_not_do_in_a_path_is_refused(name, tmp_path):
    with pytest.raises(ExportError, match="letters, digits"):
        write_bundle(trained(1), tmp_path, name=name, model_version="1.0")


@pytest.mark.parametrize("label", ["a\nb", "\x1b[31m", "", "  ", "x" * 201])
def test_class_names_with_control_characters_are_refused(label, tmp_path):
    net = EideticNetwork.restore(_parts(trained(1), (label, "猫")))
    with pytest.raises(ExportError, match="printable"):
        write_bundle(net, tmp_path, name="net", model_version="1.0")


def test_class_names_in_any_script_are_welcome(tmp_path):
    net = EideticNetwork.restore(_parts(trained(1), ("ñandú", "猫")))
    write_bundle(net, tmp_path, name="net", model_version="1.0", format="torchscript")
    assert json.loads((tmp_path / "bundle.json").read_text())["tasks"][0]["classes"] == ["ñandú", "猫"]


def _parts(net, classes):
    from dataclasses import replace

    from eideticnet.checkpoint import Parts
    from eideticnet.learned import Learned

    tasks = [replace(net.tasks[0], classes=classes)]
    return Parts(
        net.program,
        net.inputs,
        net.seed,
        Learned(tasks, net.learned.blocks.values(), routing=net.learned.routing),
        {},
    )


def test_exporting_says_nothing_on_standard_error(tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_bundle(trained(1), tmp_path, name="net", model_version="1.0")
    assert capfd.readouterr().err == ""


def test_the_revision_that_answers_is_the_one_that_is_exported(tmp_path):
    net = trained(2, (60, 60))
    net.revise_task("task 0", task_loader(0), training=QUICK, pruning=LIGHT)
    fit(net)
    write_bundle(net, tmp_path, name="net", model_version="1.0", format="torchscript")
    (first, _) = json.loads((tmp_path / "bundle.json").read_text())["tasks"]
    assert (first["name"], first["revision"], first["owner"]) == ("task 0", 1, "t2")
    assert first["network_digest"] == net.digests()["task 0 (revision 1)"] != net.digests()["task 0"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(format, tmp_path):
    """torch's own writers abort it; here no file may grow beyond a kibibyte."""
    import resource

    net, limits = trained(1), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_bundle(net, tmp_path, name="net", model_version="1.0", format=format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
