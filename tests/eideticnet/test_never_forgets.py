"""Earlier tasks' logits are equal bit for bit, whatever is learned later and however."""

import copy
import tempfile
from typing import get_args

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from eideticnet import EideticNetwork, Pruning, Routing, Training
from eideticnet.decision import RouterKind
from tests.support.example_counts import examples
from tests.support.small_networks import LIGHT, QUICK, fit, held_out, names, task_loader, trained
from tests.support.small_trunks import FEATURES, TRUNKS


class OneForAll:
    """One optimizer that is handed the parameters of every task and keeps them all."""

    def __init__(self, make):
        self.make, self.optimizer, self.known = make, None, set()

    def __call__(self, parameters):
        new = [p for p in parameters if p not in self.known]
        self.known.update(new)
        if self.optimizer is None:
            self.optimizer = self.make(new)
        elif new:
            self.optimizer.add_param_group({"params": new})
        return self.optimizer


class Remembered:
    """A new optimizer each time, all of which are kept and stepped again later."""

    def __init__(self, make):
        self.make, self.made = make, []

    def __call__(self, parameters):
        self.made.append(self.make(list(parameters)))
        return self.made[-1]


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.5),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, weight_decay=0.1, momentum=0.5),
}


def disturb(net, factory):
    """What ordinary code around a network does between two tasks."""
    net.train()
    net.requires_grad_(True)
    optimizers = factory.made if isinstance(factory, Remembered) else [factory.optimizer]
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        optimizer.step()
    if net.learned.routing is not None:
        net(torch.randn(4, FEATURES))
    for module in net.modules():
        module.training = True
    net.task_logits(torch.randn(4, FEATURES), net.tasks[-1].name)


@settings(examples(4, 10), phases=[Phase.generate])
@given(
    trunk=st.sampled_from(TRUNKS),
    widths=st.lists(st.integers(10, 20), min_size=2, max_size=3),
    classes=st.lists(st.integers(2, 4), min_size=3, max_size=4),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    keep=st.sampled_from([OneForAll, Remembered]),
    score=st.sampled_from(["l1", "l2", "taylor", "hybrid", "random"]),
    step=st.floats(0.1, 0.6),
    route_between=st.booleans(),
    routers=st.lists(st.sampled_from(get_args(RouterKind)), min_size=1, max_size=3),
    seed=st.integers(0, 10_000),
)
def test_earlier_tasks_never_change_by_one_bit(
    trunk, widths, classes, optimizer, keep, score, step, route_between, routers, seed
):
    net = EideticNetwork(trunk(widths), torch.zeros(2, FEATURES), seed=seed)
    factory = keep(OPTIMIZERS[optimizer])
    training = Training(factory, patience=1, settle_patience=1, max_epochs=2)
    pruning = Pruning(score=score, step=step, threshold=0.2, recovery_epochs=1)
    x, before = held_out(), {}
    for i, count in enumerate(classes):
        loader = task_loader(seed + i, count)
        net.train_task(
            f"task {i}",
            loader,
            names(count),
            pruning=pruning,
            training=training,
            when_full="reuse",
            moments=8,
        )
        disturb(net, factory)
        if route_between or i == len(classes) - 1:
            loaders = {t.name: task_loader(seed + j, len(t.classes)) for j, t in enumerate(net.tasks)}
            router = routers[i % len(routers)]
            decision, width = "entropy" if router == "none" else "joint", ("trunk", "free")[i % 2]
            routing = Routing(router, decision, pruning, width=width)
            net.fit_router(loaders, routing=routing, validation=loaders, training=training, when_full="reuse")
            disturb(net, factory)
        for name, logits in before.items():
            assert torch.equal(net.task_logits(x, name), logits), name
        before[f"task {i}"] = net.task_logits(x, f"task {i}")
    net.verify()


def test_after_ten_additions_the_first_tasks_logits_and_digest_are_what_they_were():
    net = trained(1, (40, 40))
    x = held_out()
    logits, digest = net.task_logits(x, "task 0"), net.digests()["task 0"]
    for i in range(1, 11):
        net.train_task(f"task {i}", task_loader(i), names(2), training=QUICK, pruning=LIGHT)
        if i % 5 == 0:
            fit(net)
        with tempfile.TemporaryDirectory() as folder:
            net.save(folder)
            net = EideticNetwork.load(folder)
        assert torch.equal(net.task_logits(x, "task 0"), logits)
        assert net.digests()["task 0"] == digest
    assert net.learned.block("t0").own == trained(1, (40, 40)).learned.block("t0").own


def test_training_a_copy_leaves_the_original_and_training_the_original_leaves_the_copy():
    net = trained(2, (20, 20))
    x = held_out()
    logits = net.task_logits(x, "task 1")
    copied = copy.deepcopy(net)
    copied.train_task("another", task_loader(7), names(2), training=QUICK, pruning=LIGHT)
    assert [t.name for t in net.tasks] == ["task 0", "task 1"]
    net.train_task("other", task_loader(8), names(2), training=QUICK, pruning=LIGHT)
    assert torch.equal(net.task_logits(x, "task 1"), logits)
    assert torch.equal(copied.task_logits(x, "task 1"), logits)


@pytest.mark.parametrize("kind", ["to double and back", "state dict"])
def test_a_round_trip_of_the_weights_keeps_every_bit(kind):
    net = trained(2)
    x = held_out()
    logits = net.task_logits(x, "task 0")
    if kind == "state dict":
        other = copy.deepcopy(net)
        other.load_state_dict(net.state_dict())
        net = other
    else:
        net.double().float()
    net.verify()
    assert torch.equal(net.task_logits(x, "task 0"), logits)


def test_a_frozen_block_has_no_parameters_and_stays_in_evaluation_mode():
    net = trained(2).train()
    assert list(net.parameters()) == []
    assert not any(block.training for block in net.learned.blocks.values())
