"""Values live until their last reader is done; none waits for the garbage collector."""

import gc
import weakref
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from eideticnet import EideticNetwork, Journal, Pruning, Routing, batches, evaluate
from eideticnet.block import Block
from eideticnet.learn.learning import logits_over
from eideticnet.learn.scores import importance
from eideticnet.learn.training import Classify, Job, accuracy, adam, train_epoch
from eideticnet.program import HEAD
from eideticnet.runs.evaluation import calibration_error
from tests.support.example_counts import examples, often
from tests.support.layer_zoo import ZOO
from tests.support.small_networks import LIGHT, QUICK, names, task_loader, trained
from tests.support.small_trunks import TRUNKS
from tests.support.zoo_networks import zoo_inputs, zoo_loader, zoo_net


@contextmanager
def collector_waiting():
    """What only the garbage collector would have freed: tensors, once the context is left."""
    gc.collect()
    gc.disable()
    left = []
    try:
        yield left
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left += [o for o in gc.garbage if issubclass(type(o), Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def keeping_all(net, x, owners):
    """Logits by owner, of blocks that run one after the other and keep every value."""
    pieces = {}
    for owner in owners:
        pieces[owner] = net.learned.block(owner)(x, pieces)
    return {owner: own[HEAD] for owner, own in pieces.items()}


def job_on(net, loader):
    """A job in the rest of the network, and the block that is to learn it."""
    owned, owners = net.learned.owned(), tuple(net.learned.blocks)
    rest = {g: max(1, n - sum(w[g] for w in owned.values())) for g, n in net.program.groups.items()}
    block = Block(net.program, "new", owners, {**owned, "new": {**rest, HEAD: 2}})
    job = Job("t", loader, Classify(2), net.inputs, QUICK, (0,), logits_over(net.learned, net.inputs))
    return job, block


KINDS = often(ZOO, ("lstm", "transformer"))


@examples(4, 40)
@given(
    trunk=st.sampled_from(TRUNKS),
    widths=st.lists(st.integers(8, 20), min_size=2, max_size=4),
    tasks=st.integers(1, 3),
    router=st.sampled_from(["block", "taps", "experts", None]),
)
def test_whatever_routes_and_answers_gives_the_bits_of_a_pass_that_keeps_all_values(
    trunk, widths, tasks, router
):
    net = trained(tasks, widths, trunk, router=False)
    if router:
        data = {t.name: task_loader(i, len(t.classes)) for i, t in enumerate(net.tasks)}
        net.fit_router(data, routing=Routing(router), training=QUICK, validation=data)
    x = torch.randn(7, *net.inputs.shape)
    for task in net.tasks:
        owners = net.learned.closure(task.owner)
        assert torch.equal(net.task_logits(x, task.name), keeping_all(net, x, owners)[task.owner])
    found = net.learned.pieces(x, net.learned.blocks)
    expected = keeping_all(net, x, net.learned.blocks)
    assert all(torch.equal(found[owner][HEAD], logits) for owner, logits in expected.items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_gives_the_same_bits_without_values_and_leaves_none_to_the_garbage_collector(kind):
    net, x = zoo_net(kind), zoo_inputs(kind)
    found, expected = net.learned.pieces(x, net.learned.blocks), keeping_all(net, x, net.learned.blocks)
    assert list(found) == list(expected)
    assert all(torch.equal(found[owner][HEAD], logits) for owner, logits in expected.items())
    assert all(list(own) == [HEAD] for own in found.values())
    job, block = job_on(zoo_net(kind, 1, router=False), zoo_loader(kind, 5))
    optimizer, data = adam(block.parameters()), {t.name: zoo_loader(kind, i) for i, t in enumerate(net.tasks)}
    with collector_waiting() as left:
        for epoch in range(2):
            train_epoch(job, block, optimizer, epoch)
            accuracy(job, block)
        importance(job, block, "taylor")
        net(x)
        net.task_logits(x, "task 1")
        evaluate(net, data)
        calibration_error(net, data)
    assert not [tuple(tensor.shape) for tensor in left]


class Deep(nn.Sequential):
    """Sixteen layers, with a skip over the first eight."""

    def __init__(self) -> None:
        super().__init__(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(16)))

    def forward(self, x: Tensor) -> Tensor:
        skipped = self[0](x)
        x = skipped
        for layer in list(self)[1:8]:
            x = layer(x)
        x = x + skipped
        for layer in list(self)[8:]:
            x = layer(x)
        return x


def most_alive(blocks, run):
    """The most values of ``blocks`` that were alive at a time in ``run()``."""
    alive, most = weakref.WeakSet(), [0]

    def seen(name, value):
        alive.add(value)
        most[0] = max(most[0], len(alive))

    for block in blocks:
        block.seen = seen
    with collector_waiting(), torch.no_grad():
        run()
    return most[0]


@pytest.mark.parametrize("tasks", [1, 3])
def test_a_deep_network_answers_with_two_values_of_each_block_and_what_is_skipped(tasks):
    torch.manual_seed(0)
    net = EideticNetwork(Deep(), torch.zeros(2, 8))
    for i in range(tasks):
        loader = batches(torch.randn(12, 8), torch.arange(12) % 2, 6)
        net.train_task(str(i), loader, names(2), training=QUICK, pruning=LIGHT, when_full="reuse")
    blocks = [net.learned.block(owner) for owner in net.learned.blocks]
    assert most_alive(blocks, lambda: net.learned.pieces(torch.randn(5, 8), net.learned.blocks)) <= 4 * tasks
    job, block = job_on(net, None)
    assert most_alive([*blocks, block], lambda: job.logits(block, torch.randn(5, 8))) <= 4 * (tasks + 1)


def test_a_whole_life_leaves_no_tensor_to_the_garbage_collector(tmp_path):
    net = trained(1, (16, 12), router=False)
    loaders = {"task 0": task_loader(0), "second": task_loader(2)}
    pruning = Pruning(score="taylor", step=0.6, threshold=0.2, recovery_epochs=1)
    counts = []

    def count(event):
        counts.append(sum(issubclass(type(o), Tensor) for o in gc.get_objects()))

    with collector_waiting() as left:
        options = {"training": QUICK, "pruning": pruning, "memory": 4, "moments": 16}
        journal = Journal(tmp_path / "journal", interval=0.0)
        net.train_task("second", loaders["second"], names(2), report=count, journal=journal, **options)
        net.fit_router(loaders, routing=Routing("taps"), validation=loaders, training=QUICK)
        evaluate(net, loaders)
    assert not [tuple(tensor.shape) for tensor in left]
    assert max(counts) - min(counts) < 100  # weights and an optimizer's states; values of steps would be more


def test_rows_that_need_conversion_are_not_kept_a_second_time():
    x, y = torch.randint(0, 9, (48, 16), dtype=torch.uint8), torch.arange(48) % 2
    net = EideticNetwork(nn.Sequential(nn.Linear(16, 12), nn.ReLU()), torch.zeros(2, 16))
    whole = []

    def count(event):
        plain = (t for t in gc.get_objects() if type(t) is Tensor and not t.is_nested)
        whole.append([t.dtype for t in plain if t.shape == x.shape])

    net.train_task("bytes", batches(x, y, 8), names(2), training=QUICK, pruning=None, report=count)
    assert whole
    assert all(set(found) == {torch.uint8} for found in whole), whole[-1]
