"""What the command line shows is there in Python too."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import eideticnet
from eideticnet import DataError, Display, EideticNetwork, Inputs, TaskReport, batches, evaluate
from tests.support.example_counts import examples
from tests.support.small_networks import LIGHT, QUICK, held_out, names, task_data, task_loader, trained
from tests.support.small_trunks import FEATURES, Mlp


def test_an_answer_is_told_by_the_names_of_task_and_label():
    net = trained(3)
    out = net(held_out())
    for named, task, label in zip(net.names(out), out.task.tolist(), out.label.tolist(), strict=True):
        assert named == (net.tasks[task].name, net.tasks[task].classes[label])
    none = net(held_out(), threshold=torch.full((9,), 2.0))
    assert net.names(none) == [(None, None)] * 9


def test_a_network_is_evaluated_by_a_name_of_the_package():
    net = trained(2)
    reports = evaluate(net, {"task 1": task_loader(1, 3)})
    assert isinstance(reports["task 1"], TaskReport)
    assert 0 <= reports["task 1"].found <= 1


def test_a_display_is_a_report_of_training():
    net, console = trained(1), Console(file=io.StringIO(), force_terminal=True, width=100)
    with Display(console) as display:
        net.train_task("birds", task_loader(5), names(2), training=QUICK, pruning=LIGHT, report=display)
        display.finished("birds: done")
    assert "birds: settle" in console.file.getvalue()
    assert "birds: done" in console.file.getvalue()


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Displays'"):
        _ = eideticnet.Displays


def test_a_routers_neurons_are_counted_apart_from_what_is_free():
    net = trained(2)
    for row in net.capacity().values():
        assert row["free"] == row["total"] - row["task 0"] - row["task 1"]
        assert list(row) == ["total", "task 0", "task 1", "free", "router"]


MEANT = {
    "float64": lambda x: x.double(),
    "an array": lambda x: x.numpy(),
    "an array of float64": lambda x: x.double().numpy(),
    "lists": lambda x: x.tolist(),
    "a subclass": lambda x: torch.nn.Parameter(x),
}


@pytest.mark.parametrize("kind", MEANT)
def test_what_is_meant_by_inputs_is_answered_alike_whatever_holds_them(kind):
    net, x = trained(2), held_out()
    for ask in (net, lambda x: net.task_logits(x, "task 1")):
        for found, expected in zip(ask(MEANT[kind](x)), ask(x), strict=True):
            assert torch.equal(found, expected)


def test_pinned_tasks_and_thresholds_may_be_one_number_or_one_for_each_row():
    net, x = trained(2), held_out(4)
    pinned = torch.tensor([0, 1, -1, 1])
    for task in ([0, 1, -1, 1], pinned.numpy(), pinned.double(), pinned.int()):
        assert torch.equal(net(x, task).label, net(x, pinned).label)
    assert torch.equal(net(x, 1).label, net(x, torch.ones(4, dtype=torch.int64)).label)
    assert net(x, threshold=2).task.tolist() == [-1] * 4


def ranged():
    """A network whose inputs have a range, with one task and no router's training."""
    net = EideticNetwork(Mlp((8, 8)), torch.zeros(2, FEATURES), inputs=Inputs((FEATURES,), low=-9, high=0.1))
    x, y = task_data(0)
    net.train_task("a", batches(x.clamp(-9, 0.1), y), names(2), training=QUICK, pruning=LIGHT)
    net.fit_router({}, routing=eideticnet.Routing("none", "entropy"))
    return net


@pytest.fixture(scope="module")
def narrow():
    return ranged()


@examples(20, 300)
@given(st.floats(width=32), st.integers(0, 3), st.integers(0, FEATURES - 1))
def test_a_number_is_refused_where_the_contract_excludes_it_and_only_there(narrow, number, row, place):
    x = torch.zeros(4, FEATURES)
    x[row, place] = number
    fits = -9 <= number <= np.float32(0.1)
    for ask in (narrow, lambda x: narrow.task_logits(x, "a")):
        if fits:
            ask(x)
        else:
            with pytest.raises(DataError, match=rf"row {row}: an input is (-?inf|nan|-?\d)"):
                ask(x)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((torch.zeros(FEATURES),), "one row of shape"),
        ((torch.zeros(2, 5),), "shape"),
        (("text",), "holds text"),
        ((None,), "NoneType"),
        ((torch.zeros(2, FEATURES).to_sparse(),), "sparse"),
        ((torch.zeros(2, FEATURES, dtype=torch.complex64),), "complex"),
        ((torch.zeros(2, FEATURES), torch.tensor([0, 7])), "row 1: task is 7"),
        ((torch.zeros(2, FEATURES), -2), "row 0: task is -2"),
        ((torch.zeros(2, FEATURES), 0.5), "task holds fractions"),
        ((torch.zeros(2, FEATURES), "task 0"), "task is a str"),
        ((torch.zeros(2, FEATURES), [0, 1, 0]), "task is a list"),
        ((torch.zeros(2, FEATURES), None, torch.zeros(3)), r"threshold is a Tensor of shape \(3,\)"),
        ((torch.zeros(2, FEATURES), None, [0.5, float("nan")]), "row 1: threshold is nan"),
    ],
)
def test_what_can_not_be_asked_is_one_line_that_says_what_can(given, message):
    with pytest.raises(DataError, match=message) as caught:
        trained(2)(*given)
    assert "\n" not in str(caught.value)


def test_numbers_that_overflow_the_network_have_no_answer():
    net, x = trained(2), held_out(4)
    x[2] = 3e38
    with pytest.raises(DataError, match="row 2: holds numbers too large for the network to answer"):
        net(x)


def test_answers_are_traced_vectorised_and_derived_as_before():
    net, x = trained(2), held_out(4)
    program = torch.export.export(net, (x,)).module()
    assert torch.equal(program(x).label, net(x).label)
    by_row = torch.func.vmap(lambda row: net.task_logits(row[None], "task 0")[0])(x)
    assert by_row.shape == (4, 2)
    x.requires_grad_()
    net.task_logits(x, "task 0").sum().backward()
    assert bool((x.grad != 0).any())
