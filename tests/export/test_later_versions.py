"""What an earlier task answers is the same, bit for bit, in the graph of every later version."""

import copy

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eideticnet import EideticNetwork
from eideticnet.export.graph.digest import digests
from eideticnet.export.graph.session import session
from eideticnet.export.graph.tail import detach, logits_name
from tests.support.exported_networks import BRIEF, COARSE, graph, held_out, learn, network, pinned, route
from tests.support.layer_zoo import ZOO
from tests.support.small_networks import fit, names, task_loader
from tests.support.small_networks import held_out as random_rows
from tests.support.small_trunks import FEATURES, TRUNKS

ROWS = (1, 7, 32)
DEFAULT = {"conv1d"}


def assert_kept(old, new, inputs):
    """Every owner of ``old`` has its digest and its bits in ``new``, pinned and as a plain output."""
    owners = [t["owner"] for key in ("tasks", "superseded") for t in old.bundle[key]]
    values = [logits_name(o) for o in owners]
    assert digests(new.model, values) == digests(old.model, values)
    before, after = (session(with_outputs(g.model, values)) for g in (old, new))
    for rows in ROWS:
        x, certain = inputs(rows), np.zeros(rows, np.float32)
        one, other = before({"x": x.numpy()}), after({"x": x.numpy()})
        assert all(one[v].tobytes() == other[v].tobytes() for v in values), rows
        for place, owner in enumerate(old.owners):
            if owner in new.owners:
                classes = len(old.bundle["tasks"][place]["classes"])
                logits = [
                    np.frombuffer(pinned(g.run, x, g.owners.index(owner), threshold=certain), np.float32)
                    for g in (old, new)
                ]
                first, second = (a.reshape(rows, -1)[:, :classes].tobytes() for a in logits)
                assert first == second, (owner, rows)


def with_outputs(model, values):
    """The graph without its tail, checked again: it has outputs of no stated type."""
    body = detach(model, values)
    del body.graph.output[:]
    body.graph.output.extend(
        onnx.helper.make_tensor_value_info(v, onnx.TensorProto.FLOAT, None) for v in values
    )
    return body


@pytest.mark.parametrize(
    "kind", [k if k in DEFAULT else pytest.param(k, marks=pytest.mark.slow) for k in ZOO]
)
def test_a_further_task_and_router_leave_the_earlier_tasks_bits(kind, tmp_path):
    kind = f"zoo/{kind}"
    net = network(kind)
    route(net, kind)
    old = graph(copy.deepcopy(net), tmp_path / "old")
    learn(net, kind)
    route(net, kind)
    assert_kept(old, graph(net, tmp_path / "new"), lambda rows: held_out(kind, rows))


def add(net, **options):
    i = len(net.tasks)
    options = {"training": BRIEF, "pruning": COARSE, "when_full": "widen", **options}
    net.train_task(f"task {i}", task_loader(i, 2 + i % 2), names(2 + i % 2), **options)


STEPS = {
    "nested": add,
    "reading the first": lambda net: add(net, reads=["task 0"]),
    "disjoint": lambda net: add(net, reads=[]),
    "nothing of its own": lambda net: add(net, when_full="reuse", pruning=None),
    "revised": lambda net: net.revise_task(
        "task 0", task_loader(0), training=BRIEF, pruning=COARSE, when_full="widen"
    ),
    "wider": lambda net: net.widen(0.4),
}

HISTORIES = {
    "trunk": st.sampled_from(TRUNKS),
    "widths": st.lists(st.integers(3, 40), min_size=2, max_size=3),
    "steps": st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=3),
    "seed": st.integers(0, 99),
}


@settings(max_examples=1)
@given(**HISTORIES)
def test_no_history_moves_a_bit_of_an_earlier_task(trunk, widths, steps, seed, tmp_path_factory):
    live(trunk, widths, steps, seed, tmp_path_factory.mktemp("history"))


@pytest.mark.slow
@settings(max_examples=15)
@given(**HISTORIES)
def test_no_history_of_many_moves_a_bit(trunk, widths, steps, seed, tmp_path_factory):
    live(trunk, widths, steps, seed, tmp_path_factory.mktemp("history"))


def live(trunk, widths, steps, seed, folder):
    torch.manual_seed(seed)
    net = EideticNetwork(trunk(widths), torch.zeros(2, FEATURES), seed=seed)
    add(net)
    fit(net)
    first = graph(copy.deepcopy(net), folder / "first")
    last = first
    for i, step in enumerate(steps):
        STEPS[step](net)
        fit(net)
        version = graph(copy.deepcopy(net), folder / f"{i}")
        for earlier in (first, last):
            assert_kept(earlier, version, random_rows)
        last = version
