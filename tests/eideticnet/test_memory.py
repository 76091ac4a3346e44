"""What is kept of a task for routers to come: nothing unless allowed, and then what was allowed."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eideticnet import CheckpointError, DataError, EideticNetwork, Inputs, Routing, batches
from eideticnet.data.interleaving import interleaved
from eideticnet.data.memory import choose_examples
from eideticnet.data.rows import Rows
from eideticnet.moments import Moments, gather
from eideticnet.route.gaussian import router_block
from tests.support.example_counts import examples
from tests.support.small_networks import LIGHT, QUICK, held_out, names, task_data, task_loader, trained

DATALESS = Routing("none", "entropy")


@given(
    count=st.integers(1, 30),
    classes=st.integers(2, 5),
    seed=st.integers(0, 1000),
    batch=st.integers(5, 50),
)
def test_exactly_as_many_examples_are_kept_as_allowed_and_of_each_class_alike(count, classes, seed, batch):
    x, y = task_data(seed, classes, 200)
    kept = choose_examples(Rows("t", batches(x, y, batch), range(classes), Inputs((6,))), count, seed)
    assert len(kept.x) == len(kept.y) == count
    of_class = torch.bincount(kept.y, minlength=classes)
    assert int(of_class.max() - of_class.min()) <= 1
    rows = {(*row.tolist(), int(label)) for row, label in zip(x, y, strict=True)}
    mine = {(*row.tolist(), int(label)) for row, label in zip(kept.x, kept.y, strict=True)}
    assert mine <= rows
    assert len(mine) == count


def test_the_choice_is_the_seeds_and_another_seeds_is_another():
    rows = Rows("t", task_loader(3, rows=200), range(2), Inputs((6,)))
    first, again, other = (choose_examples(rows, 20, seed) for seed in (1, 1, 2))
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)


def test_a_class_with_fewer_examples_gives_all_it_has():
    x, y = torch.randn(12, 6), torch.tensor([0] * 11 + [1])
    rows = Rows("t", batches(x, y), range(2), Inputs((6,)))
    assert choose_examples(rows, 10, 0).y.tolist() == [0] * 5 + [1]


def test_nothing_of_the_data_is_in_a_checkpoint_unless_it_was_allowed(tmp_path):
    net = trained(3)
    net.save(tmp_path)
    assert all(task.memory is None for task in net.tasks)
    assert net.learned.moments is None
    assert not {"memory", "moments"} & set(json.loads((tmp_path / "network.json").read_text()))
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(("memory", "moments"))]


def remembering(**kept):
    return trained(3, router=False, **(kept or {"memory": 8}))


def test_memory_and_moments_survive_saving_and_loading(tmp_path):
    net = remembering(memory=8, moments=12)
    net.save(tmp_path)
    loaded = EideticNetwork.load(tmp_path)
    for task, same in zip(net.tasks, loaded.tasks, strict=True):
        assert torch.equal(task.memory.x, same.memory.x)
        assert torch.equal(task.memory.y, same.memory.y)
    tensors = net.learned.moments.tensors()
    assert tensors.keys() == loaded.learned.moments.tensors().keys()
    assert all(torch.equal(loaded.learned.moments.tensors()[k], v) for k, v in tensors.items())


@pytest.mark.parametrize("part", ["memory", "moments"])
def test_changed_examples_are_noticed_when_a_checkpoint_is_read(part, tmp_path):
    remembering(memory=8, moments=12).save(tmp_path)
    (path,) = tmp_path.glob(f"{part}-*")
    data = bytearray(path.read_bytes())
    data[-3] ^= 0x40
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=path.name):
        EideticNetwork.load(tmp_path)


@pytest.mark.parametrize("router", ["linear", "block", "taps"])
def test_with_a_memory_a_router_is_fitted_from_the_newest_tasks_data_alone(router, tmp_path):
    net = remembering()
    net.save(tmp_path)
    net = EideticNetwork.load(tmp_path)
    before = net.task_logits(held_out(), "task 0")
    newest = {"task 2": task_loader(2, 2)}
    net.fit_router(newest, routing=Routing(router), training=QUICK)
    assert (net(held_out()).task >= 0).all()
    assert torch.equal(net.task_logits(held_out(), "task 0"), before)


def test_a_router_can_be_fitted_from_memory_alone():
    net = remembering()
    net.fit_router(training=QUICK)
    assert net.learned.router() is not None


def test_without_data_or_memory_a_task_is_named():
    net = trained(2, router=False)
    with pytest.raises(DataError, match=r"\['task 0'\].*memory=K"):
        net.fit_router({"task 1": task_loader(1, 3)}, training=QUICK)
    with pytest.raises(DataError, match="no task 'other'"):
        net.fit_router({"other": task_loader(1, 3)}, training=QUICK)
    net.fit_router(routing=DATALESS)
    assert (net(held_out()).task >= 0).all()


def rows_of(loaders, shape=(1,)):
    return [Rows("t", loader, ["a"], Inputs(shape)) for loader in loaders]


def test_few_examples_are_drawn_as_often_as_many():
    many = batches(torch.zeros(900, 1), torch.zeros(900).long())
    few = batches(torch.ones(10, 1), torch.zeros(10).long())
    loader = interleaved(rows_of([many, few]), [0, 1], balance=[1, 1])
    torch.manual_seed(0)
    drawn = torch.cat([y for _, y in loader]).double()
    assert len(drawn) == 910
    assert 0.42 < drawn.mean() < 0.58


class Numbers(torch.utils.data.Dataset):
    """A dataset that is no TensorDataset."""

    def __init__(self, count, value):
        self.count, self.value = count, value

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.full((2,), self.value), 0


def test_datasets_of_any_kind_are_balanced():
    loaders = [torch.utils.data.DataLoader(Numbers(n, v), 16) for n, v in ((300, 0.0), (10, 1.0))]
    torch.manual_seed(0)
    drawn = torch.cat([y for _, y in interleaved(rows_of(loaders, (2,)), [0, 1], balance=[1, 1])]).double()
    assert 0.4 < drawn.mean() < 0.6


# -- moments -------------------------------------------------------------------------------


def moments_of(tasks, inputs, known=None):
    for i, (x, y) in enumerate(tasks):
        rows = Rows(f"t{i}", batches(x, y, 7), range(int(y.max()) + 1), inputs)
        known = gather(known, f"t{i}", rows, 40, 0)
    return known


@examples(8, 20)
@given(seed=st.integers(0, 1000), classes=st.lists(st.integers(2, 4), min_size=2, max_size=3))
def test_moments_gathered_task_by_task_are_those_of_all_data_at_once(seed, classes):
    inputs = Inputs((6,))
    tasks = [task_data(seed + i, c, 60) for i, c in enumerate(classes)]
    known = moments_of(tasks, inputs)
    z = known.features(torch.cat([x for x, _ in tasks])).double()
    assert torch.allclose(known.products, z.T @ z, rtol=1e-5, atol=1e-4)
    start = 0
    for i, (x, y) in enumerate(tasks):
        mine = z[start : start + len(x)]
        for c in range(classes[i]):
            sums = known.sums[f"t{i}"][c]
            assert torch.allclose(sums[:-1], mine[y == c].sum(0), rtol=1e-5, atol=1e-5)
            assert int(sums[-1]) == int((y == c).sum())
        start += len(x)


def test_the_router_of_moments_is_the_gaussian_classifier_with_one_covariance():
    sklearn = pytest.importorskip("sklearn.discriminant_analysis")
    inputs = Inputs((6,))
    tasks = [task_data(i, 2, 400) for i in range(3)]
    known = moments_of(tasks, inputs)
    x, y = torch.cat([x for x, _ in tasks]), torch.cat([y + 2 * i for i, (_, y) in enumerate(tasks)])
    block = router_block(known, "router", ["t0", "t1", "t2"], inputs).eval()
    with torch.no_grad():
        logits = block(x, {})["task_head"]
    z = known.features(x).double().numpy()
    plain = sklearn.LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.01, priors=[1 / 6] * 6)
    expected = torch.from_numpy(plain.fit(z, y.numpy()).predict(z))
    assert float((logits.argmax(1) == expected).double().mean()) > 0.97
    assert float((logits.argmax(1) == y).double().mean()) > 0.8


def test_a_router_of_moments_needs_no_data_and_goes_on_with_the_next_task(tmp_path):
    net = trained(3, router=False, moments=32)
    net.fit_router(routing=Routing("moments"))
    x = torch.cat([task_data(i, 2 + i % 2)[0] for i in range(3)])
    found = net(x).task
    assert float((found == torch.arange(3).repeat_interleave(48)).double().mean()) > 0.8
    net.save(tmp_path)
    loaded = EideticNetwork.load(tmp_path)
    assert torch.equal(loaded(x).task_probs, net(x).task_probs)
    loaded.train_task("next", task_loader(7), names(2), training=QUICK, pruning=LIGHT, moments=32)
    loaded.fit_router(routing=Routing("moments"))
    assert loaded(x).task_probs.shape[1] == 4
    assert loaded.capacity().keys() == net.capacity().keys()


def test_moments_that_were_not_kept_are_named():
    net = trained(1, router=False)
    net.train_task("next", task_loader(7), names(2), training=QUICK, pruning=LIGHT, moments=8)
    with pytest.raises(DataError, match=r"no moments were kept of \['task 0'\]"):
        net.fit_router(routing=Routing("moments"))


@pytest.mark.parametrize("kept", [{"memory": -1}, {"moments": -1}, {"moments": 16}])
def test_a_count_that_can_not_be_kept_is_refused(kept):
    net = trained(1, router=False, moments=8)
    with pytest.raises(DataError, match=r"memory=-1|moments=-1|moments=16, but 8"):
        net.train_task("next", task_loader(7), names(2), training=QUICK, pruning=LIGHT, **kept)
    assert len(net.tasks) == 1


def test_moments_of_whole_numbers_are_refused():
    loader = batches(torch.zeros(4, 3, dtype=torch.int64), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(DataError, match="float32 inputs alone"):
        gather(None, "t0", Rows("t0", loader, range(2), Inputs((3,), "int64")), 8, 0)


def test_moments_are_stored_as_tensors_alone():
    known = moments_of([task_data(0)], Inputs((6,)))
    again = Moments.from_tensors(known.tensors())
    assert again.sums.keys() == known.sums.keys()
    assert all(torch.equal(v, known.tensors()[k]) for k, v in again.tensors().items())
