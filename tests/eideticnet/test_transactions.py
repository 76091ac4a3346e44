"""train_task and fit_router end with the thing learned, or with the network as it was."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eideticnet import (
    CapacityError,
    DamagedError,
    DataError,
    DivergedError,
    EideticNetwork,
    Inputs,
    NotReadyError,
    Pruning,
    Routing,
    Training,
    batches,
)
from tests.support.example_counts import examples
from tests.support.small_networks import (
    LIGHT,
    QUICK,
    fit,
    held_out,
    names,
    task_data,
    task_loader,
    trained,
    untrained,
)
from tests.support.small_trunks import FEATURES, Mlp


def state_of(net):
    """Everything that must not change: objects, tensors, answers."""
    x = held_out()
    answers = tuple(net.task_logits(x, t.name) for t in net.tasks)
    return net.learned, {k: v.clone() for k, v in net.state_dict().items()}, answers


def assert_unchanged(net, before):
    learned, tensors, answers = state_of(net)
    assert learned is before[0]
    assert all(torch.equal(tensors[k], v) for k, v in before[1].items())
    assert all(torch.equal(a, b) for a, b in zip(answers, before[2], strict=True))


class Stop(BaseException):
    """Stands for Ctrl-C."""


@examples(5, 12)
@given(
    after=st.integers(0, 25), router=st.booleans(), error=st.sampled_from([Stop, KeyboardInterrupt, OSError])
)
def test_an_interruption_at_any_epoch_leaves_the_network_as_it_was(after, router, error):
    net = trained(1)
    before, seen = state_of(net), []

    def interrupt(event):
        seen.append(event)
        if len(seen) > after:
            raise error

    rng = torch.get_rng_state()
    try:
        if router:
            net.fit_router(
                {"task 0": task_loader(0)}, training=QUICK, routing=Routing(pruning=LIGHT), report=interrupt
            )
        else:
            net.train_task("new", task_loader(5), names(2), training=QUICK, pruning=LIGHT, report=interrupt)
    except error:
        assert_unchanged(net, before)
    else:
        assert len(seen) <= after
    assert torch.equal(torch.get_rng_state(), rng)


def test_a_loss_that_becomes_nan_is_an_error_that_changes_nothing():
    net = trained(1)
    before = state_of(net)
    wild = Training(lambda p: torch.optim.SGD(p, lr=1e30))
    with pytest.raises(DivergedError, match="learning rate"):
        net.train_task("wild", task_loader(3), names(2), training=wild)
    assert_unchanged(net, before)


def test_nan_in_the_data_is_an_error_that_changes_nothing():
    net = trained(1)
    before = state_of(net)
    x, y = task_data(3)
    x[7, 2] = torch.nan
    with pytest.raises(DataError, match="task 'nan': row 7: an input is nan"):
        net.train_task("nan", batches(x, y, 16), names(2), training=QUICK)
    assert_unchanged(net, before)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.arange(48) % 3, "labels run from 0 to 2, but its 2 classes"),
        (torch.arange(48) % 2 - 1, "labels run from -1"),
        ((torch.arange(48) % 2) / 2, r"row 1: y holds fractions \(0.5\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_what_was_expected(labels, words):
    with pytest.raises(DataError, match=words):
        trained(1).train_task("t", batches(task_data(1)[0], labels, 16), names(2), training=QUICK)


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("task 0", ["a", "b"]),
        ("", ["a", "b"]),
        ("router", ["a", "b"]),
        ("total", ["a", "b"]),
        ("free", ["a", "b"]),
        ("x", ["a"]),
        ("x", ["a", "a"]),
        ("x", "ab"),
    ],
)
def test_a_task_that_can_not_be_named_so_is_refused(name, classes):
    with pytest.raises(DataError):
        trained(1).train_task(name, task_loader(1), classes)


def test_inputs_of_another_shape_are_refused():
    with pytest.raises(DataError, match=r"shape \(5,\), expected \(6,\)"):
        trained(1).train_task("t", batches(torch.zeros(8, 5), torch.arange(8) % 2), names(2))


def test_an_empty_loader_is_refused():
    empty = batches(torch.zeros(8, FEATURES), torch.arange(8) % 2)
    empty.dataset.tensors = (torch.zeros(0, FEATURES), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(DataError):
        trained(1).train_task("t", empty, names(2))


def test_no_free_neuron_is_refused_unless_the_caller_wants_to_reuse_features():
    net = untrained((8, 8))
    net.train_task("all", task_loader(0), names(2), pruning=None, training=QUICK)
    with pytest.raises(CapacityError, match=r"no free neuron in layers\.0, layers\.4"):
        net.train_task("next", task_loader(1), names(2), training=QUICK)
    logits = net.task_logits(held_out(), "all")
    net.train_task("next", task_loader(1), names(2), training=QUICK, when_full="reuse")
    assert sum(net.learned.block("t1").own.values()) == 0
    assert net.task_logits(held_out(), "next").shape == (9, 2)
    loaders, narrow = {"all": task_loader(0), "next": task_loader(1)}, Routing(width="free")
    with pytest.raises(CapacityError):
        net.fit_router(loaders, routing=narrow, training=QUICK)
    net.fit_router(loaders, routing=narrow, training=QUICK, when_full="reuse")
    assert net(held_out()).task.shape == (9,)
    assert torch.equal(net.task_logits(held_out(), "all"), logits)


def test_a_router_as_wide_as_the_trunk_stands_beside_it_and_takes_no_capacity():
    net = untrained((8, 8))
    net.train_task("all", task_loader(0), names(2), pruning=None, training=QUICK)
    net.fit_router({"all": task_loader(0)}, routing=Routing(pruning=None), training=QUICK)
    assert net.capacity()["layers.0"] == {"total": 8, "all": 8, "free": 0, "router": 8}
    net.widen(0.5)
    net.train_task("next", task_loader(1), names(2), pruning=None, training=QUICK)
    assert net.capacity()["layers.0"] == {"total": 12, "all": 8, "next": 4, "free": 0}


def test_the_routers_neurons_go_back_to_the_free_pool():
    net = trained(2)
    free = {g: row["free"] for g, row in net.capacity().items()}
    assert all(row["router"] for row in net.capacity().values())
    net.train_task("third", task_loader(9), names(2), training=QUICK, pruning=None)
    assert net.learned.block("t2").own == free
    assert all(row["free"] == 0 and "router" not in row for row in net.capacity().values())


def test_between_a_new_task_and_its_router_only_pinned_requests_are_answered():
    net = trained(1)
    net.train_task("new", task_loader(5), names(2), training=QUICK, pruning=LIGHT)
    with pytest.raises(NotReadyError, match="fit_router"):
        net(held_out())
    assert net.task_logits(held_out(), "new").shape == (9, 2)


def test_the_router_needs_the_data_of_exactly_the_tasks_there_are():
    net = trained(2)
    with pytest.raises(DataError, match=r"needs the data of \[.task 1.\]"):
        net.fit_router({"task 0": task_loader(0)})


@pytest.mark.parametrize("use", ["train_task", "fit_router", "save"])
def test_a_frozen_weight_that_was_written_to_is_noticed_and_named(use, tmp_path):
    net = trained(2)
    good = tmp_path / "good"
    net.save(good)
    net.learned.block("t1").layers.get_buffer("layers__4.weight").view(-1)[0] += 1e-6
    with pytest.raises(DamagedError, match=r"task 'task 1', layer 'layers\.4'"):
        if use == "train_task":
            net.train_task("new", task_loader(5), names(2), training=QUICK)
        elif use == "fit_router":
            fit(net)
        else:
            net.save(good)
    EideticNetwork.load(good).verify()


def test_the_same_seed_gives_the_same_network_and_another_seed_another():
    a, b, c = trained(2, seed=3), trained(2, seed=3), trained(2, seed=4)
    assert a.digests() == b.digests()
    assert a.digests() != c.digests()
    assert all(torch.equal(x, y) for x, y in zip(a(held_out()), b(held_out()), strict=True))


def test_the_order_of_classes_is_seeded_whatever_generator_the_loader_has():
    x, y = task_data(0)
    digests = set()
    for state in (1, 2):
        torch.manual_seed(state)
        generator = torch.Generator().manual_seed(state)
        loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(x, y), 16, shuffle=True, generator=generator
        )
        net = untrained((8, 8))
        net.train_task("t", loader, names(2), training=QUICK, pruning=Pruning(step=0.5, threshold=0.3))
        digests.add(net.digests()["t"])
    assert len(digests) == 1


@pytest.mark.parametrize("rows", [33, 49])
def test_a_single_row_left_over_at_the_end_of_an_epoch_does_no_harm_to_a_batch_norm(rows):
    net = untrained((8, 8))
    net.train_task("t", task_loader(0, rows=rows), names(2), training=QUICK, pruning=LIGHT)
    net.fit_router({"t": task_loader(0, rows=rows)}, training=QUICK, when_full="reuse")


def test_batches_of_one_row_alone_are_refused_for_a_batch_norm():
    x, y = task_data(0)
    net = untrained((8, 8))
    with pytest.raises(DataError, match="two rows or more"):
        net.train_task("t", batches(x, y, 1), names(2), training=QUICK)


@pytest.mark.parametrize("range_", [{"low": 5.0}, {"high": -5.0}, {"low": -3.0, "high": -2.0}, {}])
def test_synthetic_probes_fit_the_range_that_is_stated(range_):
    net = EideticNetwork(Mlp((8, 8)), torch.full((2, FEATURES), -2.5), seed=0)
    net.inputs = Inputs((FEATURES,), **range_)
    net.inputs.check(net._probes(None))


def test_probes_that_do_not_fit_are_refused_before_anything_is_trained():
    seen = []
    with pytest.raises(DataError, match="shape"):
        trained(1).train_task("t", task_loader(5), names(2), probes=torch.zeros(3, 5), report=seen.append)
    assert seen == []
