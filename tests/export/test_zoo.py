"""Every kind of layer and every ready trunk, as a graph of each format and as prefixes of it."""

import json

import numpy as np
import onnx
import pytest
import torch

from eideticnet.export.bundle.writer import write_bundle
from eideticnet.export.errors import ArchiveError
from eideticnet.export.graph.digest import digests
from eideticnet.export.graph.session import session
from eideticnet.export.graph.tail import logits_name
from eideticnet.export.lowering.to_onnx import OPSET
from tests.support.exported_networks import (
    FOREIGN,
    READY,
    graph,
    graph_of,
    held_out,
    learn,
    network,
    pinned,
    route,
)
from tests.support.layer_zoo import ZOO
from tests.support.tolerances import EXPORTED

KINDS = [*(f"zoo/{n}" for n in ZOO), *(f"ready/{n}" for n in READY), *(f"foreign/{n}" for n in FOREIGN)]


def marked(kinds, slow):
    return [pytest.param(k, marks=pytest.mark.slow) if slow(k) else k for k in kinds]


OFTEN = {"zoo/lstm", "zoo/transformer", "zoo/separable", "zoo/grouped", "zoo/gated"}
DEFAULT = marked(KINDS, lambda kind: kind not in OFTEN)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The graph of a kind, exported once: two tasks and a linear router."""
    known = {}

    def of(kind):
        if kind not in known:
            net = network(kind)
            route(net, kind, "linear")
            known[kind] = graph(net, tmp_path_factory.mktemp("zoo") / "bundle")
        return known[kind]

    return of


def assert_agrees(net, run, kind):
    """Exact task and label away from ties, the rest within the tolerance, alone and in a batch."""
    best = net(held_out(kind, 12)).task_probs.topk(2, 1).values
    clear = held_out(kind, 12)[best[:, 0] - best[:, 1] > EXPORTED]
    assert len(clear) >= 7
    for rows in (1, 2, 7):
        x, task, threshold = clear[:rows], torch.arange(rows) % 3 - 1, torch.zeros(rows)
        outputs = run(x.numpy(), task.numpy(), threshold.numpy())
        for name, expected in net(x, task, threshold)._asdict().items():
            assert outputs[name].shape == expected.shape, name
            if expected.dtype == torch.int64:
                assert outputs[name].tolist() == expected.tolist(), name
            else:
                assert np.allclose(outputs[name], expected.numpy(), rtol=0, atol=EXPORTED), name


@pytest.mark.parametrize("kind", DEFAULT)
def test_onnx_runtime_answers_like_the_eager_network(kind, exported):
    made = exported(kind)
    assert_agrees(made.net, graph_of(made.folder, made.bundle), kind)


@pytest.mark.parametrize("kind", DEFAULT)
def test_the_onnx_graph_is_valid_names_its_opset_and_leaves_the_batch_open(kind, exported):
    made = exported(kind)
    onnx.checker.check_model(made.model, full_check=True)
    assert {(e.domain, e.version) for e in made.model.opset_import} == {("", OPSET)}
    assert made.bundle["tools"]["opset"] == str(OPSET)
    for value in (*made.model.graph.input, *made.model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch", value.name


@pytest.mark.parametrize("kind", DEFAULT)
def test_every_prefix_gives_the_bits_of_the_whole_graph(kind, exported):
    made = exported(kind)
    for tasks in range(1, len(made.owners) + 1):
        run = session(made.prefix(tasks))
        for rows in (1, 7, 32):
            x = held_out(kind, rows)
            for task in range(tasks):
                whole = pinned(made.run, x, task, threshold=np.zeros(rows, np.float32))
                assert pinned(run, x, task) == whole, (tasks, rows, task)


@pytest.mark.parametrize("kind", DEFAULT)
def test_a_prefix_holds_its_own_tasks_and_nothing_else(kind, exported):
    made = exported(kind)
    for tasks, described in enumerate(made.bundle["prefixes"], 1):
        assert described["tasks"] == tasks
        assert described["bytes"] == (made.folder / described["file"]).stat().st_size
        cut, owners = made.prefix(tasks), made.owners[:tasks]
        found = digests(cut, [logits_name(o) for o in owners])
        assert list(found.values()) == [t["digest"] for t in made.bundle["tasks"][:tasks]]
        graph, outputs = cut.graph, {o.name for o in cut.graph.output}
        read = {name for node in graph.node for name in node.input}
        made_values = {name for node in graph.node for name in node.output}
        assert all(read.union(outputs).intersection(node.output) for node in graph.node)
        assert {t.name for t in graph.initializer} <= read
        others = {"router", *made.owners} - set(owners)
        assert not {logits_name(o) for o in others} & made_values
        assert not [t.name for t in graph.initializer if others.intersection(t.name.split("."))]


@pytest.mark.parametrize("kind", [f"zoo/{name}" for name in ("gated", "grouped", "rnn")])
def test_a_prefix_fails_at_what_is_pinned_to_no_task_of_its_own(kind, exported):
    made = exported(kind)
    x = held_out(kind, 3)
    for tasks in (1, 2):
        run = session(made.prefix(tasks))
        for task in (-1, tasks, 99):
            with pytest.raises(ArchiveError, match="can't run"):
                pinned(run, x, task)


def test_a_router_block_is_in_the_graph_and_in_no_prefix(tmp_path):
    """The prefix of one task of three, on a convolution net whose router has neurons of its own."""
    kind = "zoo/conv1d"
    net = network(kind)
    learn(net, kind)
    route(net, kind)
    made = graph(net, tmp_path / "bundle")
    assert any(".router." in t.name for t in made.model.graph.initializer)
    assert_agrees(net, graph_of(made.folder, made.bundle), kind)
    sizes = [p["bytes"] for p in made.bundle["prefixes"]]
    assert sizes[0] < sizes[1] < sizes[2] < (made.folder / "model.onnx").stat().st_size
    assert not any(".router." in t.name for n in (1, 2, 3) for t in made.prefix(n).graph.initializer)


@pytest.mark.parametrize("format", ["torchscript", "pt2"])
@pytest.mark.parametrize("kind", marked(KINDS, lambda kind: kind != "zoo/conv1d"))
def test_torch_formats_answer_like_the_eager_network(kind, format, tmp_path):
    net = network(kind)
    route(net, kind)
    write_bundle(net, tmp_path, name="net", model_version="1.0", format=format)
    bundle = json.loads((tmp_path / "bundle.json").read_text())
    assert_agrees(net, graph_of(tmp_path, bundle), kind)
