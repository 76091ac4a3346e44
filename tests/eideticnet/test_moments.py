"""Moments of the first task's features and of patches of images, and the router that follows from them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from eideticnet import ConfigError, DataError, EideticNetwork, Inputs, Routing, batches
from eideticnet.block import together
from eideticnet.data.rows import Rows
from eideticnet.moments import Moments, gather
from eideticnet.program import HEAD
from eideticnet.route.gaussian import TRIED, found_shrinkage, router_block, without_least
from eideticnet.rules import with_taps
from tests.support.example_counts import examples
from tests.support.small_networks import LIGHT, QUICK, names, task_data, task_loader, trained
from tests.support.small_trunks import TRUNKS, Tokens

FIRST = {"moments": 40, "moments_of": "first"}


def remembering(tasks=3, trunk=TRUNKS[0]):
    return trained(tasks, router=False, trunk=trunk, **FIRST)


def known_tasks(count=3):
    """Inputs, and the tasks that they are of."""
    x = torch.cat([task_data(i, 2 + i % 2)[0] for i in range(count)])
    return x, torch.arange(count).repeat_interleave(48)


def features_of_the_first(net, x):
    """What each layer gives that another one or the head reads, side by side, in the mean over positions."""
    block = net.learned.block("t0")
    read = with_taps(block.program).steps[-1].inputs
    values = together([block], net.inputs.normalise(x), keep=read)["t0"]
    return torch.cat([values[name] for name in read], 1)


# -- of the first task's features ----------------------------------------------------------


@pytest.mark.parametrize("trunk", TRUNKS)
def test_moments_of_the_first_tasks_features_are_those_of_all_data_at_once(trunk):
    net = remembering(trunk=trunk)
    known, (x, _) = net.learned.moments, known_tasks()
    z = F.relu(features_of_the_first(net, x) @ known.weight.T + known.bias).double()
    assert torch.allclose(known.products, z.T @ z, rtol=1e-4, atol=1e-3)
    totals = torch.stack([sums[:, :-1].sum(0) for sums in known.sums.values()]).sum(0)
    assert torch.allclose(totals, z.sum(0), rtol=1e-4, atol=1e-3)
    assert sum(int(sums[:, -1].sum()) for sums in known.sums.values()) == len(x)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_their_router_needs_no_data_reads_the_first_task_alone_and_survives_saving(trunk, tmp_path):
    net, (x, truth) = remembering(trunk=trunk), known_tasks()
    before = [net.task_logits(x, task.name) for task in net.tasks]
    net.fit_router(routing=Routing("moments", shrinkage="auto"))
    assert float((net(x).task == truth).double().mean()) > 0.65
    assert net.learned.router().reads == ("t0",)
    assert all(row.get("router", 0) == 0 for row in net.capacity().values() if row["total"])
    net.save(tmp_path)
    loaded = EideticNetwork.load(tmp_path)
    assert torch.equal(loaded(x).task_probs, net(x).task_probs)
    for task, logits in zip(loaded.tasks, before, strict=True):
        assert torch.equal(loaded.task_logits(x, task.name), logits)
    tensors = net.learned.moments.tensors()
    assert all(torch.equal(loaded.learned.moments.tensors()[k], v) for k, v in tensors.items())


def test_they_stay_true_when_the_network_is_widened_and_the_first_task_is_learned_again(tmp_path):
    net, (x, _) = remembering(), known_tasks()
    net.fit_router(routing=Routing("moments"))
    router = net.learned.router().fingerprint
    net.widen(1.0)
    net.revise_task("task 0", task_loader(0), training=QUICK, pruning=LIGHT)
    net.save(tmp_path)
    net = EideticNetwork.load(tmp_path)
    net.fit_router(routing=Routing("moments"))
    assert net.learned.router().fingerprint == router, "the first revision's block is there for ever"
    net.train_task("next", task_loader(7), names(2), training=QUICK, pruning=LIGHT, **FIRST)
    net.fit_router(routing=Routing("moments"))
    assert net(x).task_probs.shape == (len(x), 4)


def test_a_task_that_gets_a_class_more_adds_its_sums():
    net, (x, y) = remembering(2), task_data(0, 3)
    before = net.learned.moments.sums["task 0"]
    apart = torch.cat(
        [torch.arange(len(x))[y < 2], torch.arange(len(x))[y == 2]]
    )  # batches of old rows alone
    loader = [(x[rows], y[rows]) for rows in apart.split(8)]
    net.revise_task("task 0", loader, names(3), training=QUICK, pruning=LIGHT, when_full="widen", moments=40)
    sums = net.learned.moments.sums["task 0"]
    assert torch.equal(sums[:2], before)
    assert int(sums[2, -1]) == int((y == 2).sum())
    net.fit_router(routing=Routing("moments"))
    assert net(x).task_probs.shape == (len(x), 2)


def test_whole_numbers_have_moments_of_the_first_tasks_features():
    x = torch.randint(10, (40, 3), generator=torch.Generator().manual_seed(0))
    net = EideticNetwork(Tokens(), x[:2], inputs=Inputs((3,), "int64", 0, 9))
    for name in "ab":
        loader = batches(x, torch.arange(40) % 2, 10)
        net.train_task(name, loader, names(2), training=QUICK, pruning=LIGHT, when_full="reuse", **FIRST)
    net.fit_router(routing=Routing("moments"))
    assert net(x).task_probs.shape == (40, 2)


def test_experts_join_them_with_a_trained_router():
    net, (x, _) = remembering(), known_tasks()
    data = {t.name: task_loader(i, len(t.classes)) for i, t in enumerate(net.tasks)}
    for routing in (Routing("moments", pruning=None), Routing("experts", pruning=None)):
        net.fit_router(data, routing=routing, validation=data, training=QUICK)
    block = net.learned.router()
    assert block.own["moments.random_features"] == 40
    assert block.read_in(block.program.layers["moments.random_features"]) == ("t0",)
    assert float((net(x).task == known_tasks()[1]).double().mean()) > 0.8


def test_sums_of_other_features_are_not_added_to_those_that_were_kept():
    net = remembering(1)
    with pytest.raises(DataError, match=r"moments_of='input', but those of earlier tasks are of 'first'"):
        net.train_task("next", task_loader(7), names(2), training=QUICK, pruning=LIGHT, moments=40)
    with pytest.raises(DataError, match=r"moments_of='last': use input, patches, first"):
        net.train_task("next", task_loader(7), names(2), moments=40, moments_of="last")
    with pytest.raises(DataError, match="moments_of='first' without a number"):
        net.train_task("next", task_loader(7), names(2), moments_of="first")
    with pytest.raises(DataError, match=r"needs images \(channels, height, width\) of 5x5 or more"):
        trained(0, router=False).train_task("a", task_loader(0), names(2), moments=9, moments_of="patches")
    assert len(net.tasks) == 1


# -- of patches of images ------------------------------------------------------------------

IMAGES = Inputs((2, 11, 13))


def images(seed, rows=60):
    """Images whose class is the place of a bright square, the tasks' in other channels."""
    x = torch.randn(rows, 2, 11, 13, generator=torch.Generator().manual_seed(seed))
    y = torch.arange(rows) % 2
    for i, label in enumerate(y.tolist()):
        x[i, seed, 1 + 5 * label : 5 + 5 * label, 2:8] += 3.0
    return x, y


def with_patches(features=70):
    trunk = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    net = EideticNetwork(trunk, torch.zeros(2, *IMAGES.shape), inputs=IMAGES)
    for i in range(2):
        options = {"training": QUICK, "pruning": LIGHT, "moments": features, "moments_of": "patches"}
        net.train_task(f"task {i}", batches(*images(i), 20), names(2), **options)
    return net


def test_features_of_patches_are_what_whole_filters_give_in_the_mean_over_a_grid(tmp_path):
    net = with_patches()
    known = net.learned.moments
    assert known.weight.shape == (1, 2, 5, 5), "a filter has 7 x 9 places here"
    x = torch.cat([images(i)[0] for i in range(2)])
    patches = F.unfold(x, 5).transpose(1, 2) @ known.weight.flatten(1).T + known.bias
    z = F.avg_pool2d(patches.relu().transpose(1, 2).unflatten(2, (7, 9)), (1, 1)).flatten(1).double()
    assert torch.allclose(known.products, z.T @ z, rtol=1e-4, atol=1e-3)
    net.fit_router(routing=Routing("moments", shrinkage="auto"))
    assert float((net(x).task == torch.arange(2).repeat_interleave(60)).double().mean()) > 0.9
    net.save(tmp_path)
    loaded = EideticNetwork.load(tmp_path)
    assert torch.equal(loaded(x).task_probs, net(x).task_probs)
    assert loaded.learned.moments.of == "patches"
    assert loaded.learned.router().own == {"random_features": 1}


def test_whole_filters_are_chosen():
    net = with_patches(4 * 63)
    net.fit_router(routing=Routing("moments", features=2 * 63))
    assert net.learned.router().own == {"random_features": 2}
    assert len(net.learned.moments.bias) == 4, "what was kept is all there for the next router"


# -- what is chosen from the sums ----------------------------------------------------------


def sums_of(x, y, weight, bias):
    rows = Rows("t", batches(x, y, 16), range(int(y.max()) + 1), Inputs(tuple(x.shape[1:])))
    start = Moments(weight, bias, torch.zeros(len(bias), len(bias), dtype=torch.double), {})
    return gather(start, "t", rows, len(bias), 0)


@examples(5, 20)
@given(seed=st.integers(0, 1000), features=st.integers(5, 30), classes=st.integers(2, 4))
def test_the_shrinkage_is_that_of_least_generalised_cross_validation_as_computed_from_the_rows(
    seed, features, classes
):
    x, y = task_data(seed, classes, 40)
    generator = torch.Generator().manual_seed(seed)
    known = sums_of(x, y, torch.randn(features, x.shape[1], generator=generator), torch.zeros(features))
    z, targets = known.features(x).double(), F.one_hot(y).double()
    z, targets = z - z.mean(0), targets - targets.mean(0)
    within = torch.cat([z[y == c] - z[y == c].mean(0) for c in range(classes)])
    unit = within.square().sum() / len(x) / features

    def error(shrinkage):
        ridge = len(x) * shrinkage * unit * torch.eye(features, dtype=torch.double)
        hat = z @ torch.linalg.solve(z.T @ z + ridge, z.T)
        left = 1 - (1 + hat.trace()) / len(x)
        return float(((targets - hat @ targets).square().sum() / len(x)) / left**2)

    found = found_shrinkage(known, ["t"])
    assert found in TRIED
    assert error(found) <= min(map(error, TRIED)) * (1 + 1e-6)


def test_features_that_tell_nothing_go_first_and_what_stays_is_as_if_it_had_been_kept_alone():
    x, y = task_data(3, 3, 60)
    weight = torch.randn(12, x.shape[1], generator=torch.Generator().manual_seed(1))
    weight[::2] = 0.0
    known = sums_of(x, y, weight, torch.full((12,), 0.5))
    fewer = without_least(known, router_block(known, "router", ["t"], Inputs((x.shape[1],))), 0.5)
    assert torch.equal(fewer.weight, weight[1::2])
    alone = sums_of(x, y, weight[1::2], torch.full((6,), 0.5))
    assert torch.allclose(fewer.products, alone.products)
    assert torch.allclose(fewer.sums["t"], alone.sums["t"])


def test_a_router_has_as_many_features_as_were_asked_for_chosen_without_any_data():
    net, (x, truth) = remembering(), known_tasks()
    net.fit_router(routing=Routing("moments", features=25))
    assert net.learned.router().own["moments.random_features"] == 25
    assert float((net(x).task == truth).double().mean()) > 0.65
    net.fit_router(routing=Routing("moments", features=1000))
    assert net.learned.router().own["moments.random_features"] == 40


@pytest.mark.parametrize(
    "wrong",
    [
        *({"shrinkage": value} for value in (0, -1.0, "much", float("nan"), True)),
        *({"features": value} for value in (0, 2.5, "all")),
    ],
)
def test_a_shrinkage_or_a_number_of_features_that_can_not_be_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Routing("moments", **wrong)


def test_moments_of_the_input_are_stored_as_they_were():
    net = trained(2, router=False, moments=12)
    net.fit_router(routing=Routing("moments"))
    assert set(net.learned.moments.tensors()) == {"weight", "bias", "products", "sums.task 0", "sums.task 1"}
    assert [step.name for step in net.learned.router().program.steps] == ["flatten", "linear", "relu", HEAD]
    assert net.learned.router().reads == ()


@pytest.mark.parametrize("router", ["linear", "block", "taps", "none"])
@pytest.mark.parametrize("option", [{"features": 10}, {"shrinkage": 0.5}, {"shrinkage": "auto"}])
def test_what_only_routers_of_moments_read_is_refused_for_others(router, option):
    (name,) = option
    decision = "entropy" if router == "none" else "joint"
    with pytest.raises(ConfigError, match=f"{name} is of routers of moments .* router '{router}' reads none"):
        Routing(router, decision, **option)
    for other in ("moments", "experts", "auto"):
        Routing(other, **option)
