"""Whatever ordinary code does around a network, no earlier task's logits move by one bit."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from eideticnet import DamagedError, DataError, DivergedError, EideticNetwork, Pruning, Routing, Training
from tests.support.small_networks import LIGHT, QUICK, held_out, names, task_loader, trained
from tests.support.zoo_networks import add, fit, zoo_inputs, zoo_loader, zoo_net

MORE = ["lstm", "transformer", "separable", "gru both ways", "grouped"]
KINDS = ["residual", *(pytest.param(kind, marks=pytest.mark.slow) for kind in MORE)]


def optimized(make, hook=None):
    """A training whose every optimizer comes from ``make`` and may get a hook after each step."""

    def factory(parameters):
        optimizer = make(parameters)
        if hook is not None:
            optimizer.register_step_post_hook(hook(optimizer))
        return optimizer

    return Training(factory, patience=1, settle_patience=1, max_epochs=3)


def one_adam_for_all_tasks(net, kind):
    kept, known = [], set()

    def factory(parameters):
        new = [p for p in parameters if p not in known]
        known.update(new)
        if not kept:
            kept.append(torch.optim.Adam(new, lr=1e-2))
        elif new:
            kept[0].add_param_group({"params": new})
        return kept[0]

    for number in (2, 3):
        add(net, kind, number, training=Training(factory, patience=1, settle_patience=1, max_epochs=2))
        kept[0].step()


def momentum_and_decay(net, kind):
    make = partial(torch.optim.SGD, lr=1e-2, momentum=0.9, weight_decay=0.1)
    add(net, kind, 2, training=optimized(make))


def adamw(net, kind):
    add(net, kind, 2, training=optimized(partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.5)))


def a_scheduler(net, kind):
    rates = []

    def hook(optimizer):
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return lambda *_: (scheduler.step(), rates.append(scheduler.get_last_lr()[0]))

    add(net, kind, 2, training=optimized(partial(torch.optim.SGD, lr=1e-2, momentum=0.9), hook))
    assert min(rates) < 1e-2


def bfloat16_autocast(net, kind):
    with torch.autocast("cpu", torch.bfloat16):
        add(net, kind, 2)
    fit(net, kind)


def double_and_back(net, kind):
    net.double().float()
    net.verify()
    add(net, kind, 2)


def to_a_device(net, kind):
    net.to("cuda" if torch.cuda.is_available() else "cpu")
    net.cpu()
    add(net, kind, 2)


def a_half_copy(net, kind):
    half = copy.deepcopy(net).half()
    with pytest.raises(DamagedError):
        half.verify()


def training_a_copy_and_the_original(net, kind):
    copied, x = copy.deepcopy(net), zoo_inputs(kind)
    add(copied, kind, 7)
    theirs = copied.task_logits(x, "task 7")
    add(net, kind, 8)
    assert torch.equal(copied.task_logits(x, "task 7"), theirs)
    assert [t.name for t in net.tasks][-1] == "task 8"


def state_dicts(net, kind):
    other = copy.deepcopy(net)
    for moment in ("idle", "training", "after an epoch"):
        if moment == "training":
            net.train()
        state = copy.deepcopy(net.state_dict())
        if moment == "after an epoch":
            with pytest.raises(KeyboardInterrupt):
                add(net, kind, 5, report=lambda event: (_ for _ in ()).throw(KeyboardInterrupt))
        other.load_state_dict(state)
        other.verify()
        net.load_state_dict(state)
    add(net, kind, 2)


def a_loss_that_becomes_nan(net, kind):
    with pytest.raises(DivergedError, match="loss became"):
        add(net, kind, 2, training=optimized(partial(torch.optim.SGD, lr=float("nan"))))
    assert len(net.tasks) == 2


def free_neurons_of(value):
    def disturbance(net, kind):
        def poison(optimizer):
            weights = [p for g in optimizer.param_groups for p in g["params"] if p.ndim > 1]
            return lambda *_: weights[0].data[0].fill_(value)

        try:
            add(net, kind, 2, training=optimized(partial(torch.optim.SGD, lr=1e-3), poison))
        except DivergedError:
            assert len(net.tasks) == 2

    disturbance.__name__ = f"free_neurons_of_{value}"
    return disturbance


def interrupts_in_every_phase(net, kind):
    net.widen(1.0)
    for phase in ("train", "prune", "settle"):

        def stop(event, phase=phase):
            if event.phase.startswith(phase):
                raise KeyboardInterrupt

        before = net.learned
        with pytest.raises(KeyboardInterrupt):
            add(net, kind, 2, report=stop)
        with pytest.raises(KeyboardInterrupt):
            loaders = {t.name: zoo_loader(kind, i) for i, t in enumerate(net.tasks)}
            options = {"training": QUICK, "routing": Routing(pruning=LIGHT), "when_full": "reuse"}
            net.fit_router(loaders, **options, report=stop)
        assert net.learned is before


def train_and_eval_at_will(net, kind):
    moods = [True, False, True]

    def mood(event):
        for module in net.modules():
            module.training = moods[event.epoch % 3]
        net.train(not moods[event.epoch % 3])

    net.train()
    net(zoo_inputs(kind))
    add(net, kind, 2, report=mood)
    net.train()
    net.task_logits(zoo_inputs(kind), "task 2")


def pruning_that_finds_nothing(net, kind):
    free = {g: row["free"] for g, row in net.capacity().items()}
    add(net, kind, 2, pruning=Pruning(threshold=0.0, step=0.9, recovery_epochs=0, min_width=100))
    assert net.learned.block("t2").own == free


def widening_between(net, kind):
    net.widen(0.5)
    add(net, kind, 2)
    net.widen(dict.fromkeys(net.program.groups, 2))
    add(net, kind, 3)


def the_weights_drawn_anew(net, kind):
    """``apply(init)``, as many training scripts call it on whatever they are given."""
    state = copy.deepcopy(net.state_dict())
    net.apply(lambda m: m.reset_parameters() if isinstance(m, nn.Conv2d) else None)
    changed = any(
        not torch.equal(a, b) for a, b in zip(state.values(), net.state_dict().values(), strict=True)
    )
    if changed:
        with pytest.raises(DamagedError):
            add(net, kind, 2)
        net.load_state_dict(state)


def parameters_that_require_gradients(net, kind):
    net.requires_grad_(True)
    assert list(net.parameters()) == []
    add(net, kind, 2)


DISTURBANCES = [
    one_adam_for_all_tasks,
    momentum_and_decay,
    adamw,
    a_scheduler,
    bfloat16_autocast,
    double_and_back,
    to_a_device,
    a_half_copy,
    training_a_copy_and_the_original,
    state_dicts,
    a_loss_that_becomes_nan,
    free_neurons_of(float("nan")),
    free_neurons_of(float("inf")),
    interrupts_in_every_phase,
    train_and_eval_at_will,
    pruning_that_finds_nothing,
    widening_between,
    the_weights_drawn_anew,
    parameters_that_require_gradients,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("disturbance", DISTURBANCES, ids=lambda d: d.__name__)
def test_no_earlier_task_moves_by_one_bit_through(disturbance, kind):
    net, x = zoo_net(kind, 2), zoo_inputs(kind)
    before, digests = {t.name: net.task_logits(x, t.name) for t in net.tasks}, net.digests()
    disturbance(net, kind)
    net.verify()
    for name, logits in before.items():
        drift = float((net.task_logits(x, name) - logits).abs().max())
        assert drift == 0.0
        assert torch.equal(net.task_logits(x, name), logits)
        assert net.digests()[name] == digests[name]


def test_an_easy_task_after_a_hard_one_changes_nothing():
    net = EideticNetwork(
        nn.Sequential(nn.Linear(6, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU()), torch.zeros(2, 6)
    )
    net.train_task("hard", task_loader(0, 8, 96), names(8), training=QUICK, pruning=LIGHT)
    logits = net.task_logits(held_out(), "hard")
    net.train_task("easy", task_loader(1, 2), names(2), training=QUICK, pruning=LIGHT)
    assert torch.equal(net.task_logits(held_out(), "hard"), logits)


@pytest.mark.slow  # ten of them, saved in between: test_never_forgets.py
def test_fifty_tasks_in_a_row_leave_the_first_ones_as_they_were():
    net, x = trained(1, (200, 200), router=False), held_out()
    brief = {"training": replace(QUICK, max_epochs=1), "pruning": replace(LIGHT, step=0.9)}
    before, digests = {"task 0": net.task_logits(x, "task 0")}, net.digests()
    for i in range(1, 50):
        net.train_task(f"task {i}", task_loader(i, rows=16), names(2), **brief)
        before[f"task {i}"] = net.task_logits(x, f"task {i}")
    assert len(net.tasks) == 50
    for name, logits in before.items():
        assert torch.equal(net.task_logits(x, name), logits)
    assert net.digests()["task 0"] == digests["task 0"]
    net.verify()


def test_a_second_task_of_the_same_name_is_refused():
    net = trained(2)
    with pytest.raises(DataError, match="another name"):
        net.train_task("task 1", task_loader(3), names(2), training=QUICK)
