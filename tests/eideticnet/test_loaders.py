"""Everybody who reads a loader sees the same rows; what can't be right is said before training."""

import random
import warnings
from collections import Counter, namedtuple
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import sleep

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from eideticnet import DataError, DataWarning, EideticNetwork, Inputs, Journal, Routing, Training, batches
from eideticnet.data.interleaving import interleaved
from eideticnet.data.rows import Rows
from eideticnet.runs.evaluation import calibration_error, evaluate
from eideticnet.runs.history import Recorder, read
from tests.support.example_counts import examples, often
from tests.support.small_networks import LIGHT, QUICK, names, task_data, task_loader, trained, untrained
from tests.support.small_trunks import FEATURES, Mlp

INPUTS = Inputs((FEATURES,))
ONCE = Training(QUICK.optimizer, patience=1, settle_patience=1, max_epochs=1)


def poisoned(seed, rows=48, dataset=TensorDataset):
    """Rows of a task, each followed by one that nobody may read, and where the former are."""
    x, y = task_data(seed, 2, rows)
    x = torch.stack([x, torch.full_like(x, torch.nan)], 1).flatten(0, 1)
    return dataset(x, y.repeat_interleave(2)), list(range(0, 2 * rows, 2))


class Healed(TensorDataset):
    """A TensorDataset that gives something else than its tensors."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x.nan_to_num(), y


class Stream(IterableDataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __iter__(self):
        return iter(zip(self.x, self.y, strict=True))


class Backwards(Sampler):
    """A sampler of one's own, which gives its first row twice and doesn't know its length."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        yield from (*reversed(self.rows), self.rows[0])


class Again:
    """Its own iterator, as some loaders of other libraries are, which begins again."""

    def __init__(self, pairs):
        self.pairs = pairs

    def __iter__(self):
        self.left = list(self.pairs)
        return self

    def __next__(self):
        if not self.left:
            raise StopIteration
        return self.left.pop()


class Refilled:
    """Gives each batch in the same memory, as loaders with a buffer do."""

    def __init__(self, pairs):
        self.pairs, size = list(pairs), max(len(y) for _, y in pairs)
        self.x, self.y = torch.empty(size, FEATURES), torch.empty(size, dtype=torch.int64)

    def __iter__(self):
        for x, y in self.pairs:
            yield self.x[: len(y)].copy_(x), self.y[: len(y)].copy_(y)
        self.x.fill_(torch.nan)


Named = namedtuple("Named", "pixels labels")
KINDS = {
    "a sampler of some rows": lambda d, rows: DataLoader(d, 16, sampler=SubsetRandomSampler(rows)),
    "a sampler that repeats": lambda d, rows: DataLoader(d, 16, sampler=Backwards(rows)),
    "a weighted sampler": lambda d, rows: DataLoader(
        d, 16, sampler=WeightedRandomSampler([(i + 1) % 2 for i in range(len(d))], len(rows))
    ),
    "a sampler of batches": lambda d, rows: DataLoader(
        d, batch_sampler=BatchSampler(SubsetRandomSampler(rows), 16, True)
    ),
    "an order for batches": lambda d, rows: batches(*d.tensors, 16, SubsetRandomSampler(rows)),
    "a subset of a subset": lambda d, rows: DataLoader(
        Subset(Subset(d, list(range(len(d)))), rows), 16, shuffle=True
    ),
    "several datasets": lambda d, rows: DataLoader(
        ConcatDataset([Subset(d, rows[:20]), Subset(d, rows[20:])]), 16, shuffle=True
    ),
    "a collate_fn": lambda d, rows: DataLoader(
        d, 16, collate_fn=lambda pairs: Named(*map(torch.stack, zip(*pairs[::2], strict=True)))
    ),
    "an overridden item": lambda d, rows: DataLoader(Healed(*d.tensors), 16, shuffle=True),
    "a stream": lambda d, rows: DataLoader(Stream(*d[rows]), 16),
    "a list of batches": lambda d, rows: [d[rows[i : i + 13]] for i in range(0, len(rows), 13)],
    "an iterator that begins again": lambda d, rows: Again([d[rows[:30]], d[rows[30:]]]),
    "one buffer for all batches": lambda d, rows: Refilled([d[rows[i : i + 13]] for i in (0, 13, 26, 39)]),
    "batches without rows": lambda d, rows: [(torch.empty(0, FEATURES), torch.empty(0)), d[rows]],
    "a shared generator": lambda d, rows: DataLoader(Subset(d, rows), 16, shuffle=True, generator=SHARED),
}
SHARED = torch.Generator()


def looked_at(loader, task="t", classes=("a", "b"), inputs=INPUTS):
    rows = Rows(task, loader, classes, inputs)
    rows.look()
    return rows


def counted(pairs):
    return Counter((*row, label) for x, y in pairs for row, label in zip(x.tolist(), y.tolist(), strict=True))


OFTEN = ("an overridden item", "a stream", "one buffer for all batches")


@pytest.mark.parametrize("kind", often(KINDS, OFTEN))
def test_every_reader_of_a_loader_reads_what_it_gives_and_nothing_else(kind, tmp_path):
    """Rows that a loader does not give are NaN, so that anybody who reads one fails."""
    loaders = {f"task {i}": KINDS[kind](*poisoned(i)) for i in range(2)}
    net = untrained((8, 8))
    options = {"training": ONCE, "journal": Journal(tmp_path / "journal", interval=0.0)}
    for name, loader in loaders.items():
        net.train_task(name, loader, names(2), pruning=LIGHT, memory=5, moments=8, **options)
    recorder = Recorder(net, loaders)
    for some in (loaders, {"task 1": loaders["task 1"]}):
        net.fit_router(some, routing=Routing("experts"), validation=loaders, **options)
    reports = evaluate(net, loaders)
    recorder.router_learned(reports, Routing("experts"))
    assert 0 <= calibration_error(net, loaders) <= 1
    assert reports.keys() == loaders.keys()


@pytest.mark.parametrize("kind", [k for k in KINDS if "weighted" not in k])
def test_a_router_learns_from_just_the_rows_that_the_loaders_give_mixed(kind):
    parts = [looked_at(KINDS[kind](*poisoned(i)), f"task {i}") for i in range(3)]
    mixed = looked_at(interleaved(parts, [0, 2, 4]), "router", range(6))
    expected = Counter()
    for i, part in enumerate(parts):
        expected += counted((x, y + 2 * i) for x, y in part.batches("seed"))
    for names_ in (("first",), ("second",)):
        assert counted(mixed.batches(*names_)) == expected
    once, again, other = ([y.tolist() for _, y in mixed.batches(n)] for n in (1, 1, 2))
    assert once == again
    assert once != other or kind == "batches without rows"
    assert all(len({label // 2 for label in batch}) > 1 for batch in once if len(batch) > 15)


def test_what_is_learned_measured_and_kept_of_batches_in_one_buffer_is_what_is_of_each_in_its_own():
    found = []
    for kind in ("a list of batches", "one buffer for all batches"):
        loaders = {f"task {i}": KINDS[kind](*poisoned(i)) for i in range(2)}
        net = untrained((8, 8))
        for name, loader in loaders.items():
            net.train_task(name, loader, names(2), training=ONCE, pruning=LIGHT, memory=5, moments=8)
        net.fit_router(loaders, routing=Routing("experts"), validation=loaders, training=ONCE)
        kept = [(t.memory.x.tolist(), t.memory.y.tolist()) for t in net.tasks]
        measured = evaluate(net, loaders), calibration_error(net, loaders)
        found.append((net.digests(), net.learned.routing_digest(), kept, *measured))
    assert found[0] == found[1]


@examples(20, 60)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    size=st.integers(1, 20),
    plain=st.booleans(),
    seed=st.integers(0, 99),
)
def test_however_long_loaders_are_each_row_comes_once_in_batches_of_one_size(lengths, size, plain, seed):
    parts, start = [], 0
    for number, length in enumerate(lengths):
        x = torch.arange(start, start + length)[:, None].float()
        loader = batches(x, torch.zeros(length), size)
        parts.append(looked_at(loader if plain and number else list(loader), "t", ["a"], Inputs((1,))))
        start += length
    offsets = list(range(len(parts)))
    mixed = Rows("router", interleaved(parts, offsets), offsets, Inputs((1,)))
    given_ = list(mixed.batches(seed))
    assert len(given_) == len(mixed.loader)
    assert sorted(torch.cat([x for x, _ in given_])[:, 0].tolist()) == list(range(start))
    assert torch.bincount(torch.cat([y for _, y in given_])).tolist() == lengths
    assert all(len(y) == mixed.loader.size for _, y in given_[:-1])


def test_each_row_that_is_left_is_as_likely_to_be_the_next():
    """Where the only row of a short loader comes, among eight others."""
    long, short = [(torch.zeros(8, 1), torch.zeros(8))], [(torch.ones(1, 1), torch.zeros(1))]
    parts = [looked_at(loader, "t", ["a"], Inputs((1,))) for loader in (long, short)]
    mixed = interleaved(parts, [0, 1])
    object.__setattr__(mixed, "size", 1)
    places = Counter(
        [int(y) for _, y in Rows("r", mixed, range(2), Inputs((1,))).batches(seed)].index(1)
        for seed in range(180)
    )
    assert all(6 < places[i] < 40 for i in range(9))


def test_few_examples_beside_a_stream_are_given_as_often_as_many():
    many, few = poisoned(0, 300), poisoned(1, 4)
    parts = [looked_at(KINDS["a stream"](*many)), looked_at(KINDS["a list of batches"](*few))]
    mixed = Rows("router", interleaved(parts, [0, 2], balance=[2, 2]), range(4), INPUTS)
    drawn = counted(mixed.batches("seed"))
    of_few = [n for (*_, label), n in drawn.items() if label > 1]
    assert sum(drawn.values()) == 304
    assert len(of_few) == 4
    assert max(of_few) - min(of_few) <= 1
    assert 120 < sum(of_few) < 184


def test_tasks_that_are_samplers_of_one_dataset_are_found():
    """One dataset for all tasks, and a sampler that says which rows are whose; half are held out."""
    tasks = [task_data(seed, 2, 120) for seed in range(3)]
    x, y = (torch.cat(parts) for parts in zip(*tasks, strict=True))
    dataset = TensorDataset(x, y)
    rows = {f"task {i}": range(120 * i, 120 * i + 120) for i in range(3)}
    loaders, held_out = (
        {n: DataLoader(dataset, 32, sampler=SubsetRandomSampler(mine[part])) for n, mine in rows.items()}
        for part in (slice(0, 80), slice(80, 120))
    )
    net = EideticNetwork(Mlp((24, 20)), x[:2])
    training = Training(QUICK.optimizer, patience=3, settle_patience=1, max_epochs=12)
    for name, loader in loaders.items():
        net.train_task(name, loader, names(2), training=training, pruning=LIGHT)
    net.fit_router(loaders, training=training)
    reports = evaluate(net, held_out)
    assert min(report.found for report in reports.values()) > 0.8


# -- converted -----------------------------------------------------------------------------


@torch.inference_mode()
def inferred(x):
    return x.clone()


X, Y = task_data(7)
MEANT = {
    "int32 labels": (X, Y.int()),
    "labels that are true or false": (X, Y.bool()),
    "unsigned labels": (X, Y.to(torch.uint8)),
    "whole labels of floats": (X, Y.float()),
    "labels in a column": (X, Y[:, None]),
    "one-hot labels": (X, torch.nn.functional.one_hot(Y, 2)),
    "one-hot labels of floats": (X, torch.nn.functional.one_hot(Y, 2).float()),
    "a list of labels": (X, Y.tolist()),
    "arrays": (X.numpy(), Y.numpy()),
    "arrays of double precision": (X.double().numpy(), Y.numpy().astype(np.uint16)),
    "an array in reverse": (X.flip(0).numpy()[::-1], Y.numpy()),
    "an array that is read only": (np.broadcast_to(X.numpy(), X.shape), Y.numpy()),
    "an array of big endians": (X.numpy().astype(">f4"), Y.numpy().astype(">i8")),
    "inputs with a gradient": (X.clone().requires_grad_() * 1, Y),
    "inputs without any": (inferred(X), Y),
}


@pytest.mark.parametrize("kind", MEANT)
def test_what_is_meant_is_converted_to_the_last_bit(kind):
    for loader in ([MEANT[kind]], [list(MEANT[kind])], batches(*MEANT[kind], 48, SequentialSampler(X))):
        ((x, y),) = looked_at(loader).batches(0)
        assert torch.equal(x, X)
        assert torch.equal(y, Y)
        assert not x.requires_grad
        assert not x.is_inference()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float16, torch.bfloat16, torch.float64])
def test_numbers_of_other_types_are_those_of_the_contract(dtype):
    x = torch.arange(48)[:, None].to(dtype)
    ((converted, _),) = looked_at([(x, Y)], inputs=Inputs((1,), low=0, high=47)).batches(0)
    assert torch.equal(converted, torch.arange(48.0)[:, None])
    ((ids, _),) = looked_at([(x, Y)], inputs=Inputs((1,), "int64")).batches(0)
    assert torch.equal(ids, torch.arange(48)[:, None])


def test_a_task_of_arrays_has_the_digest_of_one_of_tensors():
    digests = set()
    for x, y in ((X, Y), MEANT["arrays of double precision"], (X, Y.bool())):
        net = untrained((8, 8))
        loader = batches(x, y, 16)
        net.train_task("t", loader, names(2), training=QUICK, pruning=LIGHT, memory=4, moments=8)
        net.fit_router({"t": loader}, training=QUICK)
        digests.add((*net.digests().values(), net.learned.routing_digest()))
    assert len(digests) == 1


# -- refused -------------------------------------------------------------------------------


class Augmented(Dataset):
    """Draws from everybody's global generators and one of its own; from numpy's too where it has one."""

    def __init__(self):
        self.generator, self.numpys = torch.Generator(), None

    def __len__(self):
        return 48

    def __getitem__(self, index):
        noise = torch.rand(1) + torch.rand(1, generator=self.generator)
        noise += random.random() + float(np.random.rand())
        return X[index] + noise + (float(self.numpys.random()) if self.numpys else 0), Y[index]


class Counting:
    """Gives another number each time, which no seed decides."""

    def __init__(self):
        self.count = 0

    def random(self):
        self.count += 1
        return self.count / 100


class Failing(Augmented):
    def __getitem__(self, index):
        raise OSError(f"no file {index}")


def with_nan(row):
    x = X.clone()
    x[row, 2] = torch.nan
    return x


def pairs_of(x, y):
    return list(zip(x, y, strict=True))


class Augmenting(TensorDataset):
    """Gives other rows each time, so that none is found again."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.randn(6), y


PLAIN = TensorDataset(X, Y)
ONLY_ONCE = "can be read only once|gives no data"  # in whatever order it is tried
WRONG = {
    "drop_last leaves nothing": (DataLoader(PLAIN, 64, drop_last=True), "gives no data; drop_last drops"),
    "an empty list": ([], "gives no data"),
    "an empty stream": (DataLoader(Stream([], [])), "gives no data"),
    "a generator": ((pair for pair in [(X, Y)]), "is a generator, which can be read only once"),
    "an iterator of a loader": (iter(DataLoader(PLAIN, 16)), ONLY_ONCE),
    "a stream that ends": (DataLoader(Stream(iter(X), iter(Y)), 16), ONLY_ONCE),
    "a sampler that ends": (
        DataLoader(PLAIN, 16, sampler=iter(range(48))),
        ONLY_ONCE,
    ),
    "a dataset": (PLAIN, r"is a Dataset; pass DataLoader\(dataset"),
    "two tensors": ((X, Y), r"gives batches of type Tensor; .* batches\(x, y\) makes a loader"),
    "a tensor": (X, r"is a Tensor; pass a DataLoader, or batches\(x, y\)"),
    "nothing": (None, "is a NoneType"),
    "a dict": ({"x": X, "y": Y}, "is a dict"),
    "dict batches": (
        DataLoader([{"ids": x, "labels": y} for x, y in PLAIN], 16),
        "gives batches of type dict with keys ids, labels",
    ),
    "triples": (DataLoader(TensorDataset(X, Y, Y), 16), r"gives 3 things \(Tensor, Tensor, Tensor\)"),
    "inputs alone": (DataLoader(TensorDataset(X), 16), "gives 1 things"),
    "single rows": (DataLoader(PLAIN, batch_size=None), r"gives single rows; .*batches\(x, y\) makes"),
    "a list of single rows": (pairs_of(X, Y.tolist()), r"gives single rows; .*batches\(x, y\) makes"),
    "inputs in a dict": ([({"ids": X}, Y)], "x is dict"),
    "text": ([(X, ["owl"] * 48)], r"y holds text \('owl'\)"),
    "more inputs than labels": ([(X, Y[1:])], "48 inputs and 47 labels"),
    "several labels": ([(X, torch.ones(48, 2))], r"labels have shape \(48, 2\)"),
    "fractions": ([(X, Y / 2)], r"row 1 of batch 0: y holds fractions \(0.5\)"),
    "a label too many": (
        [(X, Y), (X, Y + 1)],
        r"row 1 of batch 1: labels run from 1 to 2, but its 2 classes",
    ),
    "labels that are NaN": ([(X, Y * torch.nan)], "fractions"),
    "another shape": ([(X[:, 1:], Y)], r"shape \(5,\), expected \(6,\)"),
    "complex numbers": ([(X * 1j, Y)], "complex numbers"),
    "a sparse tensor": ([(X.to_sparse(), Y)], "sparse"),
    "a nested tensor": ([(torch.nested.nested_tensor([*X]), Y)], "nested"),
    "a tensor of nothing": ([(X.to("meta"), Y)], "meta"),
    "masked values": ([(np.ma.masked_less(X.numpy(), 0), Y)], "masked"),
    "NaN": (batches(with_nan(7), Y, 16), "row 7: an input is nan"),
    "NaN in a dataset": (
        DataLoader(pairs_of(with_nan(9).double(), Y), 16, shuffle=True),
        "row 9 of its dataset: an input is nan",
    ),
    "NaN in a dataset that augments": (
        DataLoader(Augmenting(with_nan(9), Y), 16, shuffle=True),
        r"row \d+ of batch \d: an input is nan",
    ),
    "infinity": ([(X / 0, Y)], "row 0 of batch 0: an input is -?inf"),
    "too large for the type": ([(X.double() * 1e300, Y)], "an input is -?inf"),
    "one class": (batches(X, Y * 0), "no example of class class 1 among 48 rows"),
    "one class of a sampler": (
        DataLoader(PLAIN, 8, sampler=SubsetRandomSampler(range(0, 48, 2))),
        "no example of class class 1 among 24 rows",
    ),
    "a file that is missing": (
        DataLoader(Failing(), 1),
        r"failed at batch 0: .*test_loaders.py:\d+: OSError: no file 0",
    ),
    "rows of several shapes": (
        DataLoader([(X[0], 0), (X[0, 1:], 1)], 2),
        "failed at batch 0: RuntimeError",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_can_not_be_right_is_refused_by_task_before_anything_is_trained(kind):
    loader, words = WRONG[kind]
    net, events = trained(2, router=False), []
    learned = net.learned
    right = {f"task {i}": task_loader(i, 2 + i) for i in range(2)}
    with pytest.raises(DataError, match=f"^task 'new': .*{words}"):
        net.train_task("new", loader, names(2), report=events.append)
    for data, validation in (({**right, "task 0": loader}, {}), (right, {"task 0": loader})):
        if validation and kind.startswith("one class"):
            continue  # nothing is learned from it
        with pytest.raises(DataError, match=f"^task 'task 0': .*{words}"):
            net.fit_router(data, validation=validation, report=events.append)
    assert net.learned is learned
    assert not events


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([], [], "0 inputs and 0 labels"),
        (X, Y[:9], "48 inputs and 9 labels"),
        (X, np.array(["a"] * 48), r"y holds text \('a'\)"),
        (np.array(["a"] * 48), Y, "x holds text"),
        (X, np.array([None] * 48), "y is object"),
        ("x.npy", "y.npy", "x holds text"),
        (None, Y, "x is NoneType"),
        ([[1], [2, 3]], [0, 1], "x is list"),
    ],
)
def test_batches_are_made_of_as_many_inputs_as_labels(x, y, words):
    with pytest.raises(DataError, match=words):
        batches(x, y)


@pytest.mark.parametrize("size", [0, -1, 2.0, None, True])
def test_a_batch_has_a_whole_number_of_rows(size):
    with pytest.raises(DataError, match="batch_size"):
        batches(X, Y, size)


def test_two_tasks_of_one_loader_are_refused():
    net, loader = trained(2, router=False), task_loader(0)
    with pytest.raises(DataError, match="tasks 'task 0' and 'task 1' have the same loader"):
        net.fit_router({"task 0": loader, "task 1": loader})


def test_held_out_data_may_lack_a_class_but_not_a_task():
    net = trained(2)
    some = {"task 0": batches(X[Y == 0], Y[Y == 0])}
    assert 0 <= evaluate(net, some)["task 0"].oracle <= 1
    net.fit_router({f"task {i}": task_loader(i, 2 + i) for i in range(2)}, validation=some, training=QUICK)
    for measure in (evaluate, calibration_error):
        with pytest.raises(DataError, match="no task 'typo'; known: 'task 0', 'task 1'"):
            measure(net, {"typo": some["task 0"]})
        with pytest.raises(DataError, match=r"^task 'task 0': row 0: an input is nan"):
            measure(net, {"task 0": batches(X * torch.nan, Y)})
    with pytest.raises(DataError, match="pass a dict of them"):
        evaluate(net, [some])


def test_numbers_that_an_embedding_has_no_row_for_are_refused_also_where_no_range_was_stated():
    x = torch.arange(48)[:, None].remainder(20).expand(48, 3).clone()
    net = EideticNetwork(nn.Sequential(nn.Embedding(20, 4), nn.Flatten()), x[:2])
    assert net.inputs == Inputs((3,), "int64")
    net.train_task("t", batches(x, Y, 16), names(2), training=ONCE, pruning=LIGHT)
    for value, word in ((20, "above"), (-1, "below")):
        x[5, 1] = value
        words = f"row 5: an input is {value}, {word} .*an embedding of the trunk reads it"
        for call in (
            lambda: net.train_task("u", batches(x, Y), names(2), when_full="widen"),
            lambda: net.fit_router({"t": batches(x, Y)}),
            lambda: evaluate(net, {"t": batches(x, Y)}),
            lambda: net.task_logits(x, "t"),
        ):
            with pytest.raises(DataError, match=words):
                call()


def test_a_router_that_is_given_swapped_loaders_or_labels_is_told_of_it():
    training = Training(QUICK.optimizer, patience=5, settle_patience=5, max_epochs=20)
    net = untrained((16, 16))
    data = {"a": task_data(20), "b": task_data(21), "c": task_data(22, 3)}
    for name, (x, y) in data.items():
        classes = names(int(y.max()) + 1)
        net.train_task(name, batches(x, y, 16), classes, training=training, pruning=LIGHT, when_full="reuse")
    right = {name: batches(x, y, 16) for name, (x, y) in data.items()}
    options = {"routing": Routing("linear"), "training": training}
    net.fit_router(right, **options)
    swapped = {**right, "a": right["b"], "b": right["a"]}
    with pytest.warns(
        DataWarning, match="^task '[ab]': its own head has .*that of '[ab]' has .*loaders swapped"
    ):
        net.fit_router(swapped, **options)
    other = {**right, "c": batches(data["c"][0], (data["c"][1] + 1) % 3, 16)}
    with pytest.warns(DataWarning, match="^task 'c': its own head has .* of 48 rows right, less than"):
        net.fit_router(other, **options)
    net.fit_router({**right, "c": batches(data["c"][0][:19], (data["c"][1][:19] + 1) % 3)}, **options)


# -- the same in every pass -----------------------------------------------------------------


def test_held_out_rows_that_differ_from_pass_to_pass_are_no_drift():
    """The logits of other rows, or of another revision, can't be compared."""
    dataset = Augmented()
    dataset.numpys = Counting()
    loaders = {"task 0": DataLoader(dataset, 16), "task 1": task_loader(1, 3), "later": task_loader(5)}
    net = trained(1)
    recorder = Recorder(net, loaders)
    net.train_task("task 1", loaders["task 1"], names(3), training=QUICK, pruning=LIGHT)
    recorder.task_learned("task 1", None)
    net.revise_task("task 1", loaders["task 1"], training=ONCE, pruning=LIGHT, when_full="reuse")
    recorder.task_learned("task 1", None)
    net.train_task("task 2", task_loader(2), names(2), training=ONCE, pruning=LIGHT, when_full="reuse")
    recorder.task_learned("task 2", None)
    assert [m.drift for m in read(net).moments] == [{}, {}, {"task 1": 0.0}]
    net.fit_router(routing=Routing("none", "entropy"))
    recorder.router_learned({}, Routing("none", "entropy"))
    assert sum(map(sum, read(net).routing.confusion)) == 48 + 48


def seed_all(seed, own):
    for seed_one in (random.seed, np.random.seed, torch.manual_seed, own.manual_seed):
        seed_one(seed)


def drawn(own):
    return random.random(), np.random.rand(), torch.rand(1).item(), torch.rand(1, generator=own).item()


def test_what_a_dataset_draws_is_the_seeds_whatever_surrounds_it():
    digests = set()
    for seed in (1, 2):
        dataset = Augmented()
        loader = DataLoader(dataset, 16, shuffle=True)
        net = untrained((8, 8))
        seed_all(seed, dataset.generator)
        expected = drawn(dataset.generator)
        seed_all(seed, dataset.generator)
        net.train_task("t", loader, names(2), training=QUICK, pruning=LIGHT, memory=4, moments=8)
        net.fit_router({"t": loader}, training=QUICK, validation={"t": loader})
        digests.add((*net.digests().values(), net.learned.routing_digest()))
        assert drawn(dataset.generator) == expected
    assert len(digests) == 1


def even(dataset):
    return DataLoader(Subset(dataset, range(0, 48, 2)), 16)


def odd(dataset):
    return DataLoader(Subset(dataset, range(1, 48, 2)), 16)


def doubled(pairs):
    x, y = zip(*pairs, strict=True)
    return 2 * torch.stack(x), torch.stack(y)


FOUR = TensorDataset(X, torch.arange(48) // 2 % 2)
JOBS = {
    "indices of a subset": (even, odd),
    "a sampler": (
        lambda d: DataLoader(d, 16, sampler=SubsetRandomSampler(range(0, 48, 2))),
        lambda d: DataLoader(d, 16, sampler=SubsetRandomSampler(range(1, 48, 2))),
    ),
    "shuffling": (lambda d: batches(*d.tensors, 16), lambda d: batches(*d.tensors, 16, SequentialSampler(d))),
    "the batch size": (lambda d: DataLoader(d, 16), lambda d: DataLoader(d, 12)),
    "drop_last": (lambda d: DataLoader(d, 20), lambda d: DataLoader(d, 20, drop_last=True)),
    "a collate_fn": (
        even,
        lambda d: DataLoader(Subset(d, range(0, 48, 2)), 16, collate_fn=doubled),
    ),
}


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [1, 3])
def test_a_job_of_streams_that_is_interrupted_ends_with_the_same_bits(after, tmp_path):
    def learn(stop_at=None):
        seen, lines = [], []

        def report(event):
            seen.append(event)
            if len(seen) == stop_at:
                raise Stop

        net, journal = trained(1, memory=9), Journal(tmp_path / "journal", interval=0.0, say=lines.append)
        loader = DataLoader(Augmented(), 16, shuffle=True)
        net.train_task("t", loader, names(2), training=ONCE, pruning=LIGHT, when_full="reuse")
        whole = Routing("taps", pruning=None)
        net.fit_router({"t": loader}, routing=whole, training=QUICK, report=report, journal=journal)
        return net.learned.routing_digest(), seen, lines

    expected, events, _ = learn()
    (tmp_path / "journal").unlink()
    with pytest.raises(Stop):
        learn(after)
    digest, again, lines = learn()
    assert (digest, again) == (expected, events)
    assert f"going on after {after} epochs" in lines[0]


class Holding(Dataset):
    """Adds what ``noise`` draws; it holds its generators in whatever way it likes."""

    def __init__(self, noise, *held):
        self.noise, self.held = noise, held

    def __len__(self):
        return 48

    def __getitem__(self, index):
        return X[index] + float(self.noise(*self.held)), Y[index]


class Transform:
    def __init__(self):
        self.generators = [torch.Generator(), torch.Generator()]

    def __call__(self, *held):
        return sum(torch.rand(1, generator=g) for g in self.generators)

    def collate(self, pairs):
        x, y = zip(*pairs, strict=True)
        return torch.stack(x) + self(), torch.stack(y)


def closed_over(generator):
    return lambda: generator.random()


HOLDERS = {
    "numpy's": lambda: Holding(lambda g: g.normal(), np.random.default_rng()),
    "numpy's older": lambda: Holding(lambda g: g["own"].rand(), {"own": np.random.RandomState()}),
    "python's": lambda: Holding(lambda g: g.random(), random.Random()),
    "a transform's": lambda: Holding(Transform()),
    "a partial's": lambda: Holding(partial(lambda g: g.random(), np.random.default_rng())),
    "a method's": lambda: Holding(random.Random().random),
    "a closure's": lambda: Holding(closed_over(np.random.default_rng())),
}


@pytest.mark.parametrize("kind", HOLDERS)
def test_whatever_holds_a_generator_gives_the_same_rows_in_passes_of_the_same_names(kind):
    one, other = (looked_at(DataLoader(HOLDERS[kind](), 16, shuffle=True)) for _ in range(2))
    first, again, later = (list(rows.batches(n)) for rows, n in ((one, 1), (other, 1), (one, 2)))
    assert [x.tolist() for x, _ in first] == [x.tolist() for x, _ in again]
    assert first[0][0].tolist() != later[0][0].tolist()
    assert one.fingerprint == other.fingerprint
    collated = [DataLoader(PLAIN, 16, collate_fn=Transform().collate) for _ in range(2)]
    assert looked_at(collated[0]).fingerprint == looked_at(collated[1]).fingerprint is not None


class Epochs(Sampler):
    def __init__(self):
        self.epoch = 0

    def __iter__(self):
        self.epoch += 1
        return iter(torch.randperm(48, generator=torch.Generator().manual_seed(self.epoch)).tolist())


class Ahead:
    """Loads in a thread of its own."""

    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        with ThreadPoolExecutor(1) as thread:
            yield from thread.submit(list, self.loader).result()


UNDECIDED = {
    "another thread": lambda: Ahead(DataLoader(PLAIN, 16, shuffle=True)),
    "the system": lambda: DataLoader(Holding(random.SystemRandom().random), 16),
}


@pytest.mark.parametrize("kind", UNDECIDED)
def test_rows_that_no_seed_decides_are_told(kind):
    with pytest.warns(DataWarning, match="^task 't': its loader gives other rows when it is read again"):
        looked_at(UNDECIDED[kind]())
    looked_at(Ahead(DataLoader(PLAIN, 16)))


def test_persistent_workers_are_begun_anew_for_each_pass():
    loader = DataLoader(Augmented(), 16, shuffle=True, num_workers=1, persistent_workers=True)
    rows = Rows("t", loader, ("a", "b"), INPUTS)
    first, again = (list(rows.batches(1)) for _ in range(2))
    assert [x.tolist() for x, _ in first] == [x.tolist() for x, _ in again]
    assert loader.persistent_workers


COUNTERS = {
    "a sampler": lambda: DataLoader(PLAIN, 16, sampler=Epochs()),
    "a dataset": lambda: DataLoader(Holding(Counting().random), 16),
}


@pytest.mark.parametrize("kind", COUNTERS)
def test_a_journal_is_not_gone_on_with_where_rows_depend_on_how_often_they_were_read(kind, tmp_path):
    lines, digests = [], []
    for path in (None, tmp_path / "journal", tmp_path / "journal"):
        net = untrained((8, 8))
        journal = Journal(path, interval=0.0, say=lines.append)
        net.train_task("t", COUNTERS[kind](), names(2), training=QUICK, pruning=None, journal=journal)
        digests.append(net.digests())
    assert digests == [digests[0]] * 3
    assert ["depends on how often it was read" in line for line in lines] == [True, True, False]


@pytest.mark.parametrize("kind", JOBS)
def test_a_journal_goes_on_with_the_same_rows_alone(kind, tmp_path):
    lines = []

    def learn(loader):
        net = untrained((8, 8))
        journal = Journal(tmp_path / "journal", interval=0.0, say=lines.append)
        net.train_task("t", loader, names(2), training=QUICK, pruning=None, journal=journal)
        return net.digests()

    one, other = JOBS[kind]
    assert learn(one(FOUR)) == learn(one(FOUR))
    assert ["going on after" in line for line in lines] == [True]
    lines.clear()
    learn(other(FOUR))
    assert lines == [f"{tmp_path / 'journal'} is about another training job and is not used"]


@pytest.mark.slow
def test_workers_give_what_one_process_gives():
    digests = set()
    for workers in (0, 2, -2):
        persistent = {"num_workers": abs(workers), "persistent_workers": workers < 0}
        loader = DataLoader(Subset(PLAIN, range(40)), 16, shuffle=True, **persistent)
        net = untrained((8, 8))
        net.train_task("t", loader, names(2), training=QUICK, pruning=None)
        net.fit_router({"t": loader}, training=QUICK)
        digests.add((*net.digests().values(), net.learned.routing_digest()))
    assert len(digests) == 1


@pytest.mark.filterwarnings("ignore:.*loaders swapped:UserWarning")  # one task's loader would suit both
@pytest.mark.parametrize("loaded", [batches, lambda x, y: DataLoader(Stream(x, y), 16)])
def test_a_router_for_tasks_with_the_same_inputs_is_refused_and_for_some_shared_ones_warned_of(loaded):
    (a, y), (b, _) = task_data(1, 2, 48), task_data(2, 2, 48)
    net = trained(1)
    net.train_task("again", loaded(a, y), ["x", "y"], pruning=None, training=ONCE)
    first, data = net.tasks[0].name, {"again": loaded(a, y)}
    with pytest.raises(DataError, match=r"hold the same inputs \(48 of 48 rows of .*give each its own"):
        net.fit_router({first: loaded(a.flip(0), y.flip(0)), **data}, training=ONCE)
    net.fit_router(
        {first: loaded(a, y), **data}, routing=Routing(router="none", decision="entropy"), training=ONCE
    )
    some = torch.cat([a[:12], b[12:]])
    with pytest.warns(DataWarning, match=r"hold the same inputs \(12 of 48 rows of"):
        net.fit_router({first: loaded(some, y), **data}, routing=Routing("linear"), training=ONCE)


class Slow(IterableDataset):
    """A stream that takes its time for 40 rows, and may say how many rows it has."""

    def __iter__(self):
        for row in range(40):
            sleep(0.005)
            yield torch.randn(FEATURES), row % 2


class Lengthy(Slow):
    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length


@pytest.mark.filterwarnings("ignore:Length of IterableDataset")
@pytest.mark.parametrize(
    ("stream", "told"),
    [
        (Slow(), "has no length"),
        (Lengthy(8), "gives more than the 2 batches of its length"),
        (Lengthy(40), ""),
    ],
)
def test_a_pass_that_may_have_no_end_is_told_once_with_what_to_do(stream, told, monkeypatch):
    monkeypatch.setattr("eideticnet.data.rows.LONG", 0.05)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(Rows("t", DataLoader(stream, 4), ("a", "b"), INPUTS).batches("once"))
    texts = [str(w.message) for w in caught if w.category is DataWarning]
    assert len(texts) == bool(told)
    for text in texts:
        assert text.startswith(f"task 't': its loader {told}, and a pass still goes on")
        assert "islice" in text
        assert "__len__" in text
