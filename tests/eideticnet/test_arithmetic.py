"""What an answer costs, and that a router is pruned unless told otherwise."""

import tomllib

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from eideticnet import EideticNetwork, Pruning, Routing, batches
from eideticnet.learned import ROUTER
from eideticnet.route.options import PRUNED
from eideticnet.runs.config import RoutingTable
from tests.support.example_counts import often
from tests.support.layer_zoo import REPEATED, ZOO
from tests.support.small_networks import QUICK, task_loader, trained
from tests.support.zoo_networks import zoo_net

HIDDEN = ("lstm", "transformer")
"""What torch runs fused on a CPU, where no product is seen."""
SEEN = [kind for kind in ZOO if not kind.startswith(HIDDEN)]


@pytest.mark.parametrize("kind", often(SEEN, [kind for kind in SEEN if kind not in REPEATED]))
def test_the_arithmetic_of_an_answer_is_what_its_layers_multiply(kind):
    net = zoo_net(kind, 2)
    net.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.learned.votes(net.inputs.normalise(ZOO[kind][1](1)))
    counted = net.capacity().arithmetic
    assert counted.total == counter.get_total_flops() // 2


def test_the_arithmetic_of_a_multilayer_perceptron_is_the_product_of_its_widths():
    net = trained(2, widths=(24, 20), router=False)
    loaders = {t.name: task_loader(i, len(t.classes)) for i, t in enumerate(net.tasks)}
    net.fit_router(loaders, routing=Routing("block", pruning=None), training=QUICK)
    inputs = net.inputs.shape[0]
    first, second = [(row["task 0"], row["task 1"], row[ROUTER]) for row in net.capacity().values()]
    counted = net.capacity().arithmetic
    heads = (2, 3, 5)
    expected = [
        inputs * first[i] + sum(first[: i + 1]) * second[i] + sum(second[: i + 1]) * heads[i]
        for i in range(3)
    ]
    assert list(counted.tasks.values()) == expected[:2]
    assert counted.router == expected[2]
    assert counted.plain == inputs * 24 + 24 * 20 + 20 * 5
    assert counted.total == sum(expected)
    assert counted.share == sum(expected) / counted.plain
    assert f"{counted.total:,} multiply-adds an answer" in str(counted)


def test_random_features_count_among_the_routers_neurons_and_products():
    net = trained(2, router=False, moments=16)
    net.fit_router(routing=Routing("moments"))
    assert net.capacity()["random_features"] == {"total": 0, "task 0": 0, "task 1": 0, "free": 0, ROUTER: 16}
    assert net.capacity().arithmetic.router == 16 * (net.inputs.shape[0] + 5)


@pytest.mark.parametrize(
    ("pruning", "same_as"), [("auto", PRUNED), (None, None), (Pruning(step=0.5), Pruning(step=0.5))]
)
def test_a_router_is_pruned_by_default_and_keeps_all_neurons_where_that_is_asked_for(pruning, same_as):
    assert Routing(pruning=pruning).router_pruning == same_as


@pytest.mark.parametrize(
    ("line", "pruning"), [("", "auto"), ("pruned = true", "auto"), ("pruned = false", None)]
)
def test_a_toml_says_whether_a_router_is_pruned(line, pruning):
    assert RoutingTable(**tomllib.loads(line)).build(None).pruning == pruning
    assert RoutingTable().build(Pruning(step=0.5)).pruning == Pruning(step=0.5)


def test_a_router_is_pruned_by_its_accuracy_on_validation_data_where_every_task_has_some():
    seen = {}
    for count in (0, 1, 2):
        net, events = trained(2, router=False), []
        loaders = {t.name: task_loader(i, len(t.classes)) for i, t in enumerate(net.tasks)}
        few = {f"task {i}": task_loader(50 + i, 2 + i, rows=7) for i in range(count)}
        net.fit_router(loaders, validation=few, training=QUICK, report=events.append)
        seen[count] = [e.accuracy * 14 for e in events if e.phase in ("train", "recover", "prune", "settle")]
    assert seen[0] == seen[1]
    assert all(abs(a - round(a)) < 1e-9 for a in seen[2]), "not measured on 14 rows"
    assert seen[2] != seen[0]


def test_a_router_that_is_asked_to_keep_its_neurons_learns_the_same_with_validation_data_and_without():
    routers = []
    for validation in ({}, {f"task {i}": task_loader(50 + i, 2 + i, rows=7) for i in range(2)}):
        net = trained(2, router=False)
        loaders = {t.name: task_loader(i, len(t.classes)) for i, t in enumerate(net.tasks)}
        net.fit_router(loaders, routing=Routing(pruning=None), validation=validation, training=QUICK)
        routers.append(net.learned.router().fingerprint)
    assert routers[0] == routers[1]


def test_a_router_that_is_easily_learned_ends_smaller_than_what_it_routes():
    x = torch.cat([torch.full((40, 4), float(i)) + 0.1 * torch.randn(40, 4) for i in range(4)])
    y = torch.arange(4).repeat_interleave(40)
    net = EideticNetwork(nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU()), x[:2])
    loaders = {}
    for i in (0, 2):
        mine = (y == i) | (y == i + 1)
        loaders[f"task {i}"] = batches(x[mine], y[mine] - i)
        net.train_task(
            f"task {i}", loaders[f"task {i}"], ["a", "b"], pruning=None if i else Pruning(step=0.5)
        )
    net.fit_router(loaders)
    counted = net.capacity().arithmetic
    assert all(row[ROUTER] < row["total"] for row in net.capacity().values())
    assert counted.router < sum(counted.tasks.values())
