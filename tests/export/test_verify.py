"""One archive may replace another only where every earlier task stands in it unchanged."""

from contextlib import suppress

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from eideticnet import Routing
from eideticnet.export.errors import ArchiveError
from eideticnet.export.graph.lanes import needs
from eideticnet.export.graph.prefix import cut
from eideticnet.export.graph.tail import detach, logits_name
from eideticnet.export.graph.values import Values
from eideticnet.export.proof.verify import verify
from tests.support.archived_networks import PROVABLE, add_task, archived, edited, grown, normalised, reclaim
from tests.support.example_counts import examples
from tests.support.small_networks import LIGHT, QUICK, fit, task_data, task_loader


@pytest.fixture(scope="module", params=PROVABLE)
def layout(request):
    return request.param


@pytest.fixture(scope="module")
def pair(layout, tmp_path_factory):
    """Two versions of one layout: two tasks, then three with the first one revised."""
    folder, (before, _, after) = tmp_path_factory.mktemp("pair"), grown()
    old = archived(before, folder / "old", "1.0", prefixes=[1], layout=layout)
    return old, archived(after, folder / "new", "2.0", prefixes=[1, 2], layout=layout)


def refused(old, new):
    found = verify(new, old)
    assert found.verdict == "refused", found
    return " ".join(found.reasons)


def test_an_honest_successor_is_proven(pair):
    found = verify(pair[1], pair[0])
    assert (found.verdict, found.reasons) == ("proven", [])
    seen = [(t.name, t.revision, t.answers, t.unchanged, t.bits) for t in found.tasks]
    assert seen == [("task 0", 0, False, True, True), ("task 1", 0, True, True, True)]
    assert found.tasks[1].batch_sizes == (1, 8)


def test_a_version_may_replace_itself(pair):
    assert verify(pair[0], pair[0]).verdict == "proven"


def test_the_version_before_is_no_successor_of_the_one_after(pair):
    assert "task 'task 2' is missing" in refused(pair[1], pair[0])


STEPS = {
    "add": add_task,
    "disjoint": lambda net: add_task(net, reads=()),
    "revise": lambda net: net.revise_task(
        "task 0", task_loader(0), training=QUICK, pruning=LIGHT, when_full="widen"
    ),
    "widen": lambda net: net.widen(0.3),
    "answer": lambda net: net.answer_with("task 0", 0),
    "reroute": lambda net: net.fit_router(routing=Routing("none", "entropy")),
}


@settings(max_examples=1)
@given(steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=2))
def test_every_honest_successor_is_proven(steps, layout, tmp_path_factory):
    live(steps, layout, tmp_path_factory)


@pytest.mark.slow
@settings(max_examples=15)
@given(steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=4))
def test_every_honest_successor_is_proven_in_many_histories(steps, layout, tmp_path_factory):
    live(steps, layout, tmp_path_factory)


def live(steps, layout, tmp_path_factory):
    folder, net = tmp_path_factory.mktemp("history"), normalised(1)
    versions = [archived(net, folder / "0", layout=layout)]
    for i, step in enumerate(steps, 1):
        STEPS[step](net)
        if net.learned.routing is None:
            fit(net)
        versions.append(archived(net, folder / str(i), f"{i + 1}.0", layout=layout))
        for earlier in {versions[0], versions[-2]}:
            found = verify(versions[-1], earlier)
            assert found.verdict == "proven", found.reasons


def old_body(model, owner):
    """The part of a graph that an old task's logits come from: its nodes and tensors."""
    part = cut(model, [logits_name(owner)]).graph
    nodes, tensors = {n.name for n in part.node}, {t.name for t in part.initializer}
    graph = model.graph
    return [n for n in graph.node if n.name in nodes], [t for t in graph.initializer if t.name in tensors]


def flip_bit(model, owner, draw):
    _, tensors = old_body(model, owner)
    head = logits_name(owner)
    needed = needs(Values(detach(model, [head])), head).needed
    tensors = [t for t in tensors if t.raw_data and t.name in needed]
    tensor = draw(st.sampled_from(sorted(tensors, key=lambda t: t.name)))
    raw, elements = bytearray(tensor.raw_data), np.flatnonzero(needed[tensor.name])
    width = len(raw) // needed[tensor.name].size
    at = width * draw(st.sampled_from(elements.tolist())) + draw(st.integers(0, width - 1))
    raw[at] ^= 1 << draw(st.integers(0, 7))
    tensor.raw_data = bytes(raw)


def change_attribute(model, owner, draw):
    nodes, _ = old_body(model, owner)
    gemm = draw(st.sampled_from([n for n in nodes if n.op_type == "Gemm"]))
    (beta,) = [a for a in gemm.attribute if a.name == "beta"] or [gemm.attribute.add()]
    beta.CopyFrom(onnx.helper.make_attribute("beta", draw(st.sampled_from([0.0, 0.5, 1.0000001]))))


def change_operator(model, owner, draw):
    nodes, _ = old_body(model, owner)
    draw(st.sampled_from([n for n in nodes if n.op_type == "Relu"])).op_type = draw(
        st.sampled_from(["Sigmoid", "Softplus", "Identity"])
    )


def skip_activation(model, owner, draw):
    nodes, _ = old_body(model, owner)
    relu = draw(st.sampled_from([n for n in nodes if n.op_type == "Relu"]))
    for node in nodes:
        node.input[:] = [relu.input[0] if name == relu.output[0] else name for name in node.input]


def normalise_otherwise(model, owner, draw):
    nodes, tensors = old_body(model, owner)
    (used,) = [n.input[1] for n in nodes if n.op_type == "Div"]
    (std,) = [t for t in tensors if t.name == used]
    std.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(std) * np.float32(2), std.name))


def insert_a_step(model, owner, draw):
    nodes, _ = old_body(model, owner)
    reader = draw(st.sampled_from([n for n in nodes if n.op_type == "Gemm"]))
    model.graph.node.insert(
        list(model.graph.node).index(reader), onnx.helper.make_node("Tanh", [reader.input[0]], ["inserted"])
    )
    reader.input[0] = "inserted"


FORGERIES = [flip_bit, change_attribute, change_operator, skip_activation, normalise_otherwise, insert_a_step]


@examples(20, 60)
@given(
    data=st.data(),
    forgery=st.sampled_from(FORGERIES),
    owner=st.sampled_from(["t0", "t1"]),
    adjust=st.booleans(),
)
def test_every_change_of_an_earlier_tasks_graph_is_refused(
    pair, tmp_path_factory, data, forgery, owner, adjust
):
    """Whether ``bundle.json`` was left as it is or adjusted to what the graph holds now."""
    old, new = pair
    models = []

    def forge(model):
        forgery(model, owner, data.draw)
        models.append(model)

    def claim(bundle):
        if adjust:
            with suppress(ArchiveError):  # of what no longer runs
                reclaim(bundle, models[0])

    forged = edited(new, tmp_path_factory.mktemp("forged") / "net.mar", forge, claim)
    said = refused(old, forged)
    assert f"task 'task {owner[1]}'" in said or "ONNX Runtime can't" in said


def test_a_swapped_head_is_refused(pair, tmp_path):
    def swap(bundle):
        one, other = bundle["tasks"][0], bundle["tasks"][1]
        for key in ("owner", "digest", "network_digest"):
            one[key], other[key] = other[key], one[key]

    new = edited(pair[1], tmp_path / "net.mar", bundle=swap)
    assert "changed: its digest is another" in refused(pair[0], new)


def test_a_graph_that_answers_by_another_head_than_the_bundle_says_is_refused(pair, tmp_path):
    def swap(model):
        for node in model.graph.node:
            if node.name == "tail_all":
                node.input[0], node.input[1] = node.input[1], node.input[0]

    new = edited(pair[1], tmp_path / "net.mar", graph=swap)
    assert "its tail is another" in refused(pair[0], new)


@pytest.mark.parametrize("name", ["tail_best_label", "tail_chosen", "label", "logits"])
def test_every_change_of_the_tail_is_refused(pair, tmp_path, name):
    def change(model):
        (node,) = [n for n in model.graph.node if name in n.output]
        if node.attribute:
            node.attribute[0].i += 1
        else:
            node.input[1], node.input[2] = node.input[2], node.input[1]

    new = edited(pair[1], tmp_path / "net.mar", graph=change)
    assert "its tail is another" in refused(pair[0], new)


def test_a_prefix_that_computes_something_else_is_refused(pair, tmp_path):
    def change(files):
        model = onnx.load_model_from_string(files["prefix/1.onnx"])
        tensor = next(t for t in model.graph.initializer if len(t.raw_data) > 64)
        tensor.raw_data = bytes(len(tensor.raw_data))
        files["prefix/1.onnx"] = model.SerializeToString()

    new = edited(pair[1], tmp_path / "net.mar", files=change)
    assert "prefix/1.onnx computes other logits" in refused(pair[0], new)


def set_path(*path, to):
    def change(bundle):
        for key in path[:-1]:
            bundle = bundle[key]
        bundle[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_path("tasks", 1, "classes", 0, to="renamed"), "classes were"),
        (set_path("tasks", 1, "name", to="renamed"), "task 'task 1' is missing"),
        (set_path("tasks", 1, "revision", to=3), "task 'task 1' is missing"),
        (set_path("input", "std", to=[2.0]), "the input contract changed: std"),
        (set_path("input", "high", to=1.0), "the input contract changed: high"),
        (set_path("name", to="other"), "the model is called 'other'"),
        (set_path("tasks", 0, "digest", to="0" * 64), "claims a digest"),
        (set_path("routing", "temperature", to=9.0), "its tail is another"),
        (lambda b: b["graph"]["outputs"].reverse(), "other meanings than they have"),
        (lambda b: b["graph"]["inputs"].reverse(), "other meanings than they have"),
        (lambda b: b["tasks"].reverse(), "tasks answer in another order"),
        (lambda b: b["superseded"].clear(), "task 'task 0' is missing"),
    ],
)
def test_a_promise_that_bundle_json_no_longer_keeps_is_refused(pair, tmp_path, change, message):
    assert message in refused(pair[0], edited(pair[1], tmp_path / "net.mar", bundle=change))


def test_what_is_no_onnx_graph_of_the_same_precision_is_not_comparable(pair, tmp_path):
    other = archived(normalised(2), tmp_path / "script", format="torchscript")
    assert verify(other, pair[0]).verdict == "not comparable"
    half = edited(pair[1], tmp_path / "half.mar", bundle=set_path("precision", to="float16"))
    found = verify(half, pair[0])
    assert found.verdict == "not comparable"
    assert len(found.reasons) == 1
    assert "precision" in found.reasons[0]
    assert "float16" in found.reasons[0]


def test_other_tools_that_made_another_graph_are_named(pair, tmp_path):
    def relu_to_identity(model):
        nodes, _ = old_body(model, "t1")
        next(n for n in nodes if n.op_type == "Relu").op_type = "Identity"

    found = []

    def claim(bundle):
        reclaim(bundle, found[0])
        bundle["tools"]["torch"] = "9.9"

    def edit(model):
        relu_to_identity(model)
        found.append(model)

    report = verify(edited(pair[1], tmp_path / "net.mar", edit, claim), pair[0])
    assert report.verdict == "not comparable"
    assert "other tools" in report.reasons[-1]


def routing_file(path, tasks, rows=240, shift=0.0, **extra):
    x, task = [], []
    for i in range(tasks):
        x.append(task_data(i, 2 + i % 2, rows)[0] + shift)
        task.append(np.full(rows, i))
    np.savez(path, x=torch.cat(x).numpy(), task=np.concatenate(task), **extra)
    return path


def test_routing_is_not_measured_where_there_are_no_real_inputs(pair):
    found = verify(pair[1], pair[0]).routing
    assert found.status == "not measured"
    assert "no real inputs" in found.reasons[0]


def test_routing_is_judged_on_real_inputs_per_task_with_an_interval(pair, tmp_path):
    file = routing_file(tmp_path / "real.npz", 2)
    found = verify(pair[1], pair[0], file, max_drop=1.0).routing
    assert [(t.name, t.rows, t.kind) for t in found.tasks] == [
        ("task 0", 240, "accuracy"),
        ("task 1", 240, "accuracy"),
    ]
    for task in found.tasks:
        low, high = task.interval
        assert low < task.new < high or task.new in (0, 1)
    assert found.status == "kept"


def test_a_routing_that_lost_an_old_task_is_refused_although_every_logit_is_the_same(pair, layout, tmp_path):
    """The router took the first task's inputs for the third's."""
    net = normalised(2)
    add_task(net)
    everything = task_loader(0, 2, 480)
    net.fit_router(
        {
            t.name: everything if i == 2 else task_loader(50 + i, len(t.classes))
            for i, t in enumerate(net.tasks)
        },
        training=QUICK,
        routing=Routing("block", "hard", LIGHT),
        when_full="reuse",
    )
    new = archived(net, tmp_path / "bad", "2.0", layout=layout)
    file = routing_file(tmp_path / "real.npz", 2)
    found = verify(new, pair[0], file)
    assert all(task.unchanged and task.bits for task in found.tasks)
    assert found.verdict == "refused"
    assert "fell from" in found.reasons[0]


def test_too_few_real_inputs_are_no_measurement(pair, tmp_path):
    found = verify(pair[1], pair[0], routing_file(tmp_path / "real.npz", 2, rows=30), 1.0).routing
    assert found.status == "not measured"
    assert "30 real inputs, 200 are needed" in found.reasons[0]


def test_real_inputs_travel_in_the_archive_where_that_is_permitted(tmp_path):
    net, later, _ = grown()
    kept = archived(net, tmp_path / "old", validation=routing_file(tmp_path / "real.npz", 2))
    found = verify(archived(later, tmp_path / "new", "2.0"), kept, max_drop=1.0).routing
    assert (found.status, found.source) == ("kept", f"{kept}: validation.safetensors")


def test_inputs_without_tasks_measure_agreement(pair, tmp_path):
    np.savez(tmp_path / "real.npz", x=torch.cat([task_data(i, 2, 300)[0] for i in (0, 1)]).numpy())
    found = verify(pair[0], pair[0], tmp_path / "real.npz").routing
    assert {t.kind for t in found.tasks} == {"agreement"}
    assert all(t.new == 1 for t in found.tasks)


@pytest.mark.parametrize("name", ["real.npz", "real.safetensors", "missing.npz"])
def test_routing_data_that_can_not_be_read_is_named(pair, tmp_path, name):
    if name.startswith("real"):
        (tmp_path / name).write_bytes(b"PK\3\4 no such file")
    with pytest.raises(ArchiveError, match=f"can't read routing data .*{name}"):
        verify(pair[1], pair[0], tmp_path / name)


def test_routing_data_of_another_shape_is_refused_with_both_shapes(pair, tmp_path):
    np.savez(tmp_path / "real.npz", x=np.zeros((3, 5), np.float32))
    with pytest.raises(ArchiveError, match=r"x of shape \[3, 5\]; expected x of shape \[N, 6\]"):
        verify(pair[1], pair[0], tmp_path / "real.npz")
