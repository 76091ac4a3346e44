"""A block learns from one layer for all frozen blocks what it would learn from each of them."""

import copy
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.graphs import equal_tasks
from eideticnet import EideticNetwork, Inputs, Journal, batches
from eideticnet.block import Block, together
from eideticnet.learn.learning import logits_over
from eideticnet.learn.prefix import Prefix
from eideticnet.learn.reading import owners_of
from eideticnet.models import convnet, mlp
from eideticnet.program import HEAD
from eideticnet.rules import with_taps
from eideticnet.seeding import seeded
from tests.support.archived_networks import LATER, reads_of, with_past
from tests.support.example_counts import examples, often
from tests.support.layer_zoo import ZOO
from tests.support.shuffled import KINDS as SHUFFLED
from tests.support.shuffled import pixels
from tests.support.small_networks import LIGHT, QUICK, names, task_loader, trained
from tests.support.small_trunks import FEATURES, TRUNKS
from tests.support.zoo_networks import zoo_inputs, zoo_net

ROUNDING = 1e-9
"""Of numbers around 1, in float64 and after a few layers."""


def fresh(net, reads=None, taps=False):
    """A block of three neurons in each layer that is to be learned in ``net``."""
    reading = owners_of(reads, net.learned, net.program)
    program = with_taps(net.program) if taps else net.program
    own = {**dict.fromkeys(net.program.groups, 3), HEAD: 2}
    return Block(program, "new", reading.owners, {**net.learned.owned(), "new": own}, unread=reading.unread)


def assert_learns_the_same(net, block, x):
    """The logits, the gradients and the running statistics are those of block after block, in float64."""
    net.double(), block.double()
    x = net.inputs.normalise(x)
    x = x.double() if x.is_floating_point() else x
    earlier = [net.learned.block(owner) for owner in net.learned.closure(*block.reads)]
    logits = Prefix(earlier).logits if earlier else logits_over(net.learned, net.inputs)
    weights, start = list(block.parameters()), {k: t.clone() for k, t in block.state_dict().items()}
    for training in (True, False):
        found = []
        for run in (logits, lambda block, x: together([*earlier, block], x)["new"][HEAD]):
            block.load_state_dict(start)
            with seeded("the same noise"):
                given = run(block.train(training), x)
            gradients = torch.autograd.grad(given.square().sum(), weights, allow_unused=True)
            found.append([given, *gradients, *(t.clone() for t in block.buffers())])
        for ours, theirs in zip(*found, strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                rounding = ROUNDING if earlier else 0
                assert torch.allclose(ours, theirs, rtol=rounding, atol=rounding)


@examples(5, 60)
@given(
    trunk=st.sampled_from(TRUNKS),
    later=st.lists(st.sampled_from(LATER), max_size=3),
    now=st.sampled_from(LATER),
    taps=st.booleans(),
)
def test_after_any_history_the_gradients_are_those_of_block_after_block(trunk, later, now, taps):
    net = with_past(trunk, later)
    block = fresh(net, reads_of(net, now), taps)
    assert_learns_the_same(net, block, torch.randn(7, FEATURES))


@pytest.mark.parametrize("kind", often(ZOO, ("separable", "dense", "lstm", "transformer")))
def test_every_kind_of_layer_is_read_with_the_gradients_of_block_after_block(kind):
    net = zoo_net(kind, 3, router=False)
    net.widen(dict.fromkeys(net.program.groups, 12))
    assert_learns_the_same(net, fresh(net), zoo_inputs(kind))


@pytest.mark.parametrize("kind", often(("v2", "v2, by rows", "v1, 3 groups", "excited"), ("v2",)))
def test_shuffled_channels_are_read_with_the_gradients_of_block_after_block(kind):
    net = equal_tasks(SHUFFLED[kind](), (3, 8, 8), 2)
    assert_learns_the_same(net, fresh(net), pixels(5))


class Operations(TorchDispatchMode):
    """How often each operation ran."""

    def __init__(self):
        super().__init__()
        self.ran = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ran[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("trunk", "shape"), [(mlp(6, (24, 24)), (6,)), (convnet(3, (24, 24), pool_every=9), (3, 8, 8))]
)
def test_a_training_step_runs_as_many_operations_on_three_frozen_tasks_as_on_eight(trunk, shape):
    ran = []
    for tasks in (3, 8):
        net = equal_tasks(trunk, shape, tasks)
        logits, block, x = logits_over(net.learned, net.inputs), fresh(net), torch.randn(4, *shape)
        logits(block, x)  # lays the page
        with Operations() as operations:
            logits(block, x).square().sum().backward()
        ran.append(operations.ran)
    assert ran[0] == ran[1]


def test_a_job_that_goes_on_after_an_interruption_reads_the_same_bits(tmp_path):
    net, found = trained(3, router=False), []

    def learn(again, report=lambda event: None):
        journal = Journal(tmp_path / "journal", interval=0.0)
        options = {"training": QUICK, "pruning": LIGHT, "when_full": "widen"}
        again.train_task("new", task_loader(9), names(2), report=report, journal=journal, **options)
        journal.remove()
        return again.digests()

    def stop(event):
        found.append(event)
        if len(found) == 3:
            raise KeyboardInterrupt

    expected = learn(copy.deepcopy(net))
    with pytest.raises(KeyboardInterrupt):
        learn(net, stop)
    assert learn(net, found.append) == expected


class Grows(nn.Sequential):
    """What no type holds where inputs are large, and what brings it back."""

    def __init__(self):
        super().__init__(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 8))

    def forward(self, x):
        return self[4](self[3](self[2](self[1](self[0](x)).exp())))


@pytest.mark.parametrize("bounded", [False, True])
def test_an_infinity_of_a_task_that_a_layer_does_not_read_does_not_reach_it(bounded):
    torch.manual_seed(0)
    inputs = Inputs((6,), low=-1, high=1) if bounded else Inputs((6,))
    net, x = EideticNetwork(Grows(), torch.zeros(2, 6), inputs=inputs), torch.rand(16, 6)
    for name, reads in (("wild", None), ("tame", []), ("third", [])):
        loader, options = batches(x, torch.arange(16) % 2, 8), {"training": QUICK, "pruning": LIGHT}
        net.train_task(name, loader, names(2), reads=reads, **options)
        net.widen(1.0)
    block = fresh(net, {"2": ["tame"]})
    logits = logits_over(net.learned, net.inputs)
    if not bounded:  # the first is infinite where the others are not, and then 1
        net.learned.block("t0").layer("0").weight.abs_().add_(1e3)
        net.learned.block("t0").layer("2").weight.abs_()
    earlier = [net.learned.block(owner) for owner in net.learned.blocks]
    expected = together([*earlier, block.eval()], x, {"exp", HEAD})
    assert bool(expected["t0"]["exp"].isfinite().all()) == bounded
    assert torch.allclose(logits(block, x), expected["new"][HEAD])
    with Operations() as operations:
        logits(block, x)
    assert operations.ran["addmm"] == (10 if bounded else 16), "in pages there are no heads of others"
