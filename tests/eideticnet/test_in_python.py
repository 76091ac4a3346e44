"""What the command line shows is there in Python too."""

import io

import pytest
import torch
from nets import LIGHT, QUICK, held_out, names, task_loader, trained
from rich.console import Console

import eideticnet
from eideticnet import Display, TaskReport, evaluate


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
