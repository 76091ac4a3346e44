"""Numbers are a function of names, whatever else draws from torch at the same time."""

import random
import threading
import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from eideticnet import EideticNetwork, Pruning, Routing, batches
from eideticnet.errors import UnsupportedError
from eideticnet.learn.threads import number, using
from eideticnet.seeding import _random_functions, derive, seeded
from tests.support.example_counts import often
from tests.support.small_networks import LIGHT, QUICK, names, task_data, untrained
from tests.support.small_trunks import FEATURES, Mlp
from tests.support.waiting import until

BRIEF = replace(QUICK, max_epochs=1)


class Noisy(Dataset):
    """Augments as it is read, by ``noise``."""

    def __init__(self, noise):
        (self.x, self.y), self.noise = task_data(0, rows=24), noise

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        return self.x[index] + self.noise(index), self.y[index]


def reseeded(index):
    torch.manual_seed(index)
    return torch.randn(FEATURES)


def forked(index):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(index)
        fixed = torch.randn(FEATURES)
    return fixed + 0.1 * torch.empty(FEATURES).uniform_()


SHARED = DataLoader(TensorDataset(*task_data(0, rows=24)), 16, shuffle=True, generator=torch.Generator())
LOADERS = {
    "batches": lambda: batches(*task_data(0, rows=24), 16),
    "a plain loader": lambda: DataLoader(TensorDataset(*task_data(0, rows=24)), 16, shuffle=True),
    "noise": lambda: DataLoader(Noisy(lambda index: torch.randn(FEATURES)), 16, shuffle=True),
    "noise of a seed": lambda: DataLoader(Noisy(reseeded), 16, shuffle=True),
    "noise of a fork": lambda: DataLoader(Noisy(forked), 16, shuffle=True),
}


def learned(loader, seed=0):
    """Everything random about a network of one task and a router: weights, dropout, orders, what is kept."""
    net = untrained((8, 8), seed=seed)
    net.train_task("t", loader, names(2), training=BRIEF, pruning=LIGHT, memory=4, moments=8)
    net.fit_router({"t": loader}, training=BRIEF, routing=Routing("moments"))
    moments = net.learned.routing_digest()
    net.fit_router({"t": loader}, training=BRIEF)
    return net.digests(), moments, net.learned.routing_digest(), net.tasks[0].memory.x.tolist()


@cache
def alone(kind):
    """What is learned where nothing else draws."""
    return learned(LOADERS[kind]())


@contextmanager
def drawing_all_the_time():
    """Another thread draws from torch's process-wide generator, and seeds it."""
    done = threading.Event()

    def draw():
        while not done.wait(1e-4):
            torch.rand(3), torch.manual_seed(1), torch.randperm(5), random.seed(1)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("kind", often(LOADERS, ["a plain loader", "noise", "noise of a fork"]))
def test_a_thread_that_draws_and_seeds_changes_nothing(kind):
    quiet = alone(kind)
    with drawing_all_the_time():
        assert learned(LOADERS[kind]()) == quiet


def test_networks_that_are_trained_in_threads_are_those_that_are_trained_one_after_another():
    kinds = [LOADERS["batches"], LOADERS["noise of a fork"], lambda: SHARED, lambda: SHARED]
    expected = [learned(make(), seed) for seed, make in enumerate(kinds)]
    found = {}

    def work(seed, make):
        found[seed] = learned(make(), seed)

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(kinds)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(len(kinds))] == expected


@pytest.mark.parametrize("kind", often(LOADERS, ["a plain loader", "noise of a fork"]))
def test_training_neither_moves_nor_seeds_the_generator_around_it(kind):
    trunk = Mlp((8, 8))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    EideticNetwork(trunk, torch.zeros(2, FEATURES))
    assert learned(LOADERS[kind]()) == alone(kind)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.initial_seed() == 3


class Noise(Mlp):
    def forward(self, x):
        x = F.dropout(super().forward(x), 0.5, self.training)
        return x + torch.randn_like(x) if self.training else x


def test_what_another_thread_draws_while_networks_are_made_is_what_its_seed_gives():
    trunk = Noise((8, 8))
    torch.manual_seed(0)
    expected, found, done = torch.rand(50_000), [], threading.Event()

    def draw():
        while not done.is_set() and len(found) < len(expected):
            found.append(torch.rand(()))
            time.sleep(1e-4)

    torch.manual_seed(0)
    thread = threading.Thread(target=draw)
    thread.start()
    until(lambda: found)
    EideticNetwork(trunk, torch.zeros(2, FEATURES))
    done.set()
    thread.join()
    assert torch.equal(torch.stack(found), expected[: len(found)])


def test_a_job_on_one_thread_leaves_torchs_number_to_jobs_in_other_threads():
    begun_with, found = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        with using(1):
            thread = threading.Thread(target=lambda: found.append(number()))
            thread.start()
            thread.join()
            found.append(number())
        assert (found, torch.get_num_threads()) == ([2, 1], 2)
    finally:
        torch.set_num_threads(begun_with)


@contextmanager
def meanwhile(work, count=1):
    """Other threads do ``work`` again and again."""
    done, errors = threading.Event(), []

    def again():
        try:
            while not done.is_set():
                work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=again) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert errors == []


def of_numpy(index):
    return torch.from_numpy(np.random.rand(FEATURES)).float() + random.random()


def built():
    return EideticNetwork(Mlp((8, 8)), torch.zeros(2, FEATURES)).program


def test_networks_are_built_in_another_thread_and_change_nothing_that_another_learns():
    expected, program = learned(DataLoader(Noisy(of_numpy), 4, shuffle=True)), built()
    with meanwhile(lambda: (built(), time.sleep(0.5))):
        assert learned(DataLoader(Noisy(of_numpy), 4, shuffle=True)) == expected
        assert built() == program


class Drawing(Mlp):
    def forward(self, x):
        return super().forward(x) * random.random()


def test_a_forward_is_blamed_for_numbers_that_it_draws_and_not_for_another_threads():
    program = built()
    with meanwhile(lambda: (np.random.rand(), random.random(), time.sleep(1e-4))):
        assert [built() for _ in range(2)] == [program] * 2
    random.seed(3)
    before = random.getstate()
    with pytest.raises(UnsupportedError, match="draws random numbers from Python or numpy"):
        EideticNetwork(Drawing((8, 8)), torch.zeros(2, FEATURES))
    assert random.getstate() == before


def recurrent():
    return nn.LSTM(4, 4, 2, dropout=0.5)(torch.ones(3, 2, 4))[0]


def initial():
    return nn.TransformerEncoderLayer(4, 2, 8).linear1.weight


def gradient(function):
    x = torch.ones(40, requires_grad=True)
    (function(x) ** 2).sum().backward()
    return x.grad


HALF, ONES = torch.full((40,), 0.5), torch.ones(2, 3, 40, 4)
DRAWS = {
    "rand": lambda: torch.rand(9),
    "randn_like": lambda: torch.randn_like(HALF),
    "randint": lambda: torch.randint(3, 99, (9,)),
    "randperm": lambda: torch.randperm(30),
    "normal": lambda: torch.normal(0.0, HALF),
    "bernoulli": lambda: torch.bernoulli(HALF),
    "multinomial": lambda: torch.multinomial(HALF, 9, replacement=True),
    "in place": lambda: torch.empty(9).exponential_(),
    "the default generator": lambda: torch.rand(9, generator=torch.default_generator),
    "its other name": lambda: torch.rand(9, generator=torch.random.default_generator),
    "dropout": lambda: F.dropout(HALF, 0.5),
    "dropout of pictures": lambda: F.dropout(ONES.to(memory_format=torch.channels_last), p=0.9),
    "dropout of other numbers": lambda: F.dropout(ONES.half().mT, 0.3, True),
    "dropout in place": lambda: F.dropout(HALF.clone(), 0.3, inplace=True),
    "dropout of all and none": lambda: F.dropout(HALF, 1.0) + F.dropout(HALF, 0.0) + F.dropout(HALF),
    "dropout's gradient": lambda: gradient(lambda x: F.dropout(x, 0.4)),
    "feature dropout": lambda: torch.feature_dropout(ONES, 0.5, True),
    "alpha dropout": lambda: F.alpha_dropout(HALF, training=True),
    "an operator": lambda: torch.ops.aten.dropout.default(HALF, 0.5, True),
    "attention": lambda: F.scaled_dot_product_attention(ONES, ONES, ONES, dropout_p=0.5),
    "rrelu": lambda: F.rrelu(-HALF, training=True),
    "gumbel": lambda: F.gumbel_softmax(HALF),
    "initial weights": initial,
    "truncated": lambda: nn.init.trunc_normal_(torch.empty(9)),
    "recurrent": recurrent,
    "a distribution": lambda: torch.distributions.Beta(HALF, HALF).rsample(),
    "low rank": lambda: torch.pca_lowrank(ONES[0, 0] + HALF[:, None], 2)[0],
}


@pytest.mark.parametrize("kind", DRAWS)
def test_each_way_to_draw_gives_what_the_seeded_process_would_and_leaves_it_alone(kind):
    torch.manual_seed(derive("names"))
    expected = [DRAWS[kind](), DRAWS[kind]()]
    torch.manual_seed(7)
    before, numbers = torch.get_rng_state(), seeded("names")
    with numbers:
        found = [DRAWS[kind]()]
    torch.rand(1)  # what others draw
    torch.set_rng_state(before)
    with numbers:
        found.append(DRAWS[kind]())
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_of_numbers_within_numbers_the_inner_ones_are_drawn_and_the_outer_ones_go_on():
    with seeded("outer"):
        plain = [F.dropout(HALF), torch.rand(3)]
    with seeded("inner"):
        inner = F.dropout(HALF)
    with seeded("outer"):
        first = F.dropout(HALF)
        with seeded("inner"):
            assert torch.equal(F.dropout(HALF), inner)
        second = torch.rand(3)
    assert torch.equal(first, plain[0])
    assert torch.equal(second, plain[1])


def test_no_operation_that_draws_is_unknown():
    packets = [getattr(torch.ops.aten, name) for name in dir(torch.ops.aten) if not name.startswith("__")]
    overloads = [
        getattr(packet, name)
        for packet in packets
        if hasattr(packet, "overloads")
        for name in packet.overloads()
    ]
    tagged = {o for o in overloads if torch.Tag.nondeterministic_seeded in o.tags}
    names_of = {o.overloadpacket.__name__ for o in tagged}
    internal = {name for name in names_of if name.startswith("_") or "rnn" in name}  # what public ones call
    assert len(names_of) > 30
    assert names_of - internal <= _random_functions()


SURROUNDINGS = {
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "another device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("kind", often(SURROUNDINGS, ["inference", "autocast", "another device"]))
def test_a_network_learns_the_same_where_the_caller_has_no_gradients_or_another_device(kind):
    x, y = task_data(0)

    def learned(around):
        net = untrained((12, 12))
        with around():
            loaders = {name: batches(x + i, y) for i, name in enumerate("ab")}
            for name, loader in loaders.items():
                net.train_task(name, loader, names(2), training=QUICK, pruning=LIGHT, memory=4, moments=8)
            net.fit_router(loaders, training=QUICK, validation=loaders)
            net.widen(0.5)
            net.revise_task("a", loaders["a"], training=QUICK, pruning=LIGHT)
        net.train_task("c", batches(x - 1, y), names(2), training=QUICK, pruning=LIGHT)
        net.fit_router(routing=Routing("none", "entropy"))
        before = net.task_logits(x, "a"), net(x).task_probs
        with around() if kind != "another device" else nullcontext():
            assert torch.equal(net.task_logits(x, "a"), before[0])
            assert torch.equal(net(x).task_probs, before[1])
        return net.digests()

    assert learned(SURROUNDINGS[kind]) == learned(nullcontext)


def test_what_a_report_leaves_behind_changes_nothing():
    def learned(report=lambda event: None):
        net = untrained((12, 12))
        pruning = Pruning("taylor", step=0.5, threshold=0.99, recovery_epochs=1)
        loader = batches(*task_data(0))
        net.train_task("a", loader, names(2), training=QUICK, pruning=pruning, report=report)
        return net.digests()

    def careless(event):
        torch.set_grad_enabled(False)
        torch.autocast("cpu", torch.bfloat16).__enter__()

    try:
        assert learned(careless) == learned()
        assert torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
    finally:
        torch.set_grad_enabled(True)
        torch.set_autocast_enabled("cpu", False)


def test_numbers_in_use_are_not_those_of_a_worker_that_was_forked_meanwhile():
    workers = {"num_workers": 1, "multiprocessing_context": "fork"}
    loader = DataLoader(Noisy(lambda index: torch.rand(FEATURES)), 8, **workers)
    with seeded("a"):
        first = [x for x, _ in loader]
    with seeded("a"):
        again = [x for x, _ in loader]
    with seeded("b"):
        other = [x for x, _ in loader]
    assert torch.equal(torch.cat(first), torch.cat(again))
    assert not torch.equal(torch.cat(first), torch.cat(other))
