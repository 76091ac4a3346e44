"""A task's files and callables: what is meant is read, the rest refused by task, file and row."""

import io
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from eideticnet import DataError, DataWarning, Inputs
from eideticnet.runs.config import TaskConfig, read_tasks
from eideticnet.runs.sources import open_task
from tests.support.small_networks import task_data

X, Y = task_data(1, 3, 60)
CLASSES = ("cod", "eel", "ray")
NAMES = [CLASSES[i] for i in Y.tolist()]


def opened(source, classes=CLASSES, inputs=Inputs((6,)), held_out=0.25, **options):
    task = TaskConfig(name="fish", classes=classes, data=str(source), **options)
    return open_task(task, inputs, seed=0, held_out=held_out, batch_size=16)


@pytest.fixture
def saved(tmp_path):
    """Saves x and y, in a file that is named."""

    def save(x, y, name="fish.npz"):
        np.savez(tmp_path / name, **{k: v for k, v in (("x", x), ("y", y)) if v is not None})
        return tmp_path / name

    return save


@pytest.mark.parametrize(
    "y",
    [
        Y.int().numpy(),
        Y.float().numpy(),
        Y[:, None].numpy(),
        torch.nn.functional.one_hot(Y).numpy(),
        torch.nn.functional.one_hot(Y).double().numpy(),
        np.array(NAMES),
        np.array(NAMES)[:, None],
        np.array(NAMES, dtype="S"),
    ],
    ids=["int32", "floats", "column", "one-hot", "one-hot floats", "names", "column of names", "bytes"],
)
def test_labels_may_be_names_or_numbers_in_any_usual_form(y, saved):
    data, plain = opened(saved(X.double().numpy(), y)), opened(saved(X.numpy(), Y.numpy(), "plain.npz"))
    for one, other in ((data.train, plain.train), (data.test, plain.test)):
        assert all(torch.equal(a, b) for a, b in zip(one.dataset.tensors, other.dataset.tensors, strict=True))
    assert torch.equal(data.first_inputs(3), plain.first_inputs(3))


@pytest.mark.parametrize(
    ("classes", "told"),
    [(["1", "0", "2"], ["0", "1"]), (["2", "0", "9"], []), (["0", "1", "2"], []), (CLASSES, [])],
)
@pytest.mark.parametrize("y", [Y.numpy(), Y.float().numpy()])
def test_a_number_that_is_the_name_of_another_class_is_told(classes, told, y, saved):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        opened(saved(X.numpy(), y), classes)
    assert [str(w.message).split()[1] for w in found if "save labels as text" in str(w.message)] == told


def test_a_file_may_lie_at_home_or_have_a_suffix_in_capitals(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    saved(X.numpy(), Y.numpy()).rename(tmp_path / "FISH.NPZ")
    tasks = tmp_path / "tasks.toml"
    tasks.write_text('[[tasks]]\nname = "fish"\nclasses = ["a", "b", "c"]\ndata = "~/FISH.NPZ"\n')
    (task,) = read_tasks(tasks)
    assert len(opened(task.data).train.dataset) == 45


def with_value(value, row=7):
    x = X.clone()
    x[row, 2] = value
    return x.numpy()


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (with_value(torch.nan), Y.numpy(), "row 7: an input is nan"),
        (with_value(torch.inf), Y.numpy(), "row 7: an input is inf"),
        (with_value(99.0), Y.numpy(), r"row 7: an input is 99.0, above the stated high 50"),
        (X[:, :5].numpy(), Y.numpy(), r"inputs have shape \(5,\), expected \(6,\)"),
        (
            X.numpy(),
            np.array([*NAMES[:-1], "ell"]),
            "row 59: label 'ell' is no class; .* cod, eel, ray; did you mean 'eel'",
        ),
        (X.numpy(), Y.numpy() + 1, "row 2: labels run from 1 to 3, but its 3 classes are numbered 0 to 2"),
        (X.numpy(), Y.numpy() / 2, "row 1: y holds fractions"),
        (X.numpy(), np.zeros(60, int), "no example of class eel, ray among 60 rows"),
        (X.numpy(), np.where(Y == 2, 1, Y), "no example of class ray among 60 rows"),
        (X.numpy(), np.array([2] + [0, 1] * 29 + [0]), "class ray has one row"),
        (X.numpy(), np.zeros((60, 2)), r"labels have shape \(60, 2\)"),
        (X.numpy(), np.array([None] * 60), "y holds Python objects; .* text with dtype=str"),
        (X.numpy(), Y.numpy()[:9], "60 inputs and 9 labels"),
        (X.numpy()[:0], Y.numpy()[:0], "0 inputs and 0 labels; it needs two or more"),
        (np.float32(1), np.int64(0), "x is a single number"),
        (np.array(["a"] * 60), Y.numpy(), r"x holds text \('a'\)"),
        (None, None, "holds no x and no y; it needs x and y"),
        (X.numpy(), None, "holds no y; it needs x and y"),
    ],
)
def test_what_can_not_be_right_in_a_file_is_refused_by_task_file_and_row(x, y, words, saved):
    path = saved(x, y)
    with pytest.raises(DataError, match=f"^task 'fish', {path}: .*{words}") as error:
        opened(path, inputs=Inputs((6,), low=-50, high=50))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"PK\x05\x06" + bytes(18), b"\x93NUMPY\x01\x00", b"nonsense"]
)
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_of_another_kind_is_refused_by_name(content, suffix, tmp_path):
    path = tmp_path / f"fish{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"^task 'fish', {path}: (can't read it|it holds no x)"):
        opened(path)


def test_a_sparse_file_is_no_npz_and_what_does_not_fit_into_memory_is_said_to_be_so(tmp_path):
    with (tmp_path / "fish.npz").open("wb") as file:
        file.truncate(30 << 30)
    with pytest.raises(DataError, match=r"it is no \.npz file, as np.savez"):
        opened(tmp_path / "fish.npz")
    header = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 6)}
    np.lib.format.write_array_header_1_0(header, described)
    with zipfile.ZipFile(tmp_path / "fish.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
    with pytest.raises(DataError, match="does not fit into memory"):
        opened(tmp_path / "fish.npz")


def test_a_single_array_is_no_npz(tmp_path):
    np.save(tmp_path / "fish.npy", X.numpy())
    (tmp_path / "fish.npy").rename(tmp_path / "fish.npz")
    with pytest.raises(DataError, match="can't read it"):
        opened(tmp_path / "fish.npz")


def test_test_data_may_lack_a_class_but_is_refused_by_its_own_name(saved, tmp_path):
    save_file({"x": X, "y": Y}, tmp_path / "train.safetensors")
    test = saved(X.numpy() + 1, Y.numpy().clip(max=1), "test.npz")
    assert sum(len(y) for _, y in opened(tmp_path / "train.safetensors", test=str(test)).test) == 60
    test = saved(X.numpy(), Y.numpy() + 1, "test.npz")
    with pytest.raises(DataError, match=f"^task 'fish', {test}: row 2: labels run from 1 to 3"):
        opened(tmp_path / "train.safetensors", test=str(test))


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def pairs(x):
    return Items(list(zip(x, Y.tolist(), strict=True)))


class Endless(IterableDataset):
    def __iter__(self):
        yield X[0], Y[0]


CALLABLES = {
    "dicts": (lambda: Items([{"x": X[0], "y": Y[0]}]), "batches of type dict with keys x, y"),
    "nan": (lambda: pairs(with_value(np.nan)), "row 7 of its dataset: an input is nan"),
    "no_class": (lambda: Items([(X[0], 0)] * 9), "no example of class eel, ray among 9 rows"),
    "nothing": (lambda: Items([]), "gives no data"),
    "endless": (Endless, "returned Endless, not .* a Dataset with a length"),
    "none": (lambda: None, "returned NoneType, not"),
    "names": (lambda: (X, ["cod", "elk"] * 30), "row 1: label 'elk' is no class"),
    "ragged": (lambda: ([[1], [2, 3]], [0, 1]), "x is list"),
}
FINE = {
    "lists": lambda: (X.tolist(), NAMES),
    "objects": lambda: (X, np.array(NAMES, dtype=object)),
    "numbers_as_objects": lambda: [X.numpy(), np.array(Y.tolist(), dtype=object)],
    "rows": lambda: pairs(X.double().numpy()),
    "tensors": lambda: TensorDataset(X.double(), Y.int()),
}


@pytest.fixture
def users(tmp_path, monkeypatch):
    """A user's module, whose callables are those above."""
    (tmp_path / "users_data.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__("users_data")
    vars(module).update({name: kind[0] for name, kind in CALLABLES.items()} | FINE)
    yield "users_data"
    del sys.modules["users_data"]


@pytest.mark.parametrize("name", CALLABLES)
def test_what_a_callable_returns_is_looked_at_to_the_last_row(name, users):
    with pytest.raises(DataError, match=f"^task 'fish', {users}:{name}: .*{CALLABLES[name][1]}"):
        opened(f"{users}:{name}")


@pytest.mark.parametrize("name", FINE)
def test_a_callable_may_return_whatever_is_meant(name, users):
    data = opened(f"{users}:{name}")
    assert sum(len(y) for _, y in data.test) == 15
    assert data.first_inputs(3).shape == (3, 6)


def told(call):
    """What a call warns of, by the first words."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in found if w.category is DataWarning]


def test_inputs_that_stand_under_two_labels_are_counted_and_equal_ones_are_refused(saved):
    path = saved(torch.cat([X, X[:6]]).numpy(), torch.cat([Y, (Y[:6] + 1) % 3]).numpy())
    (line,) = [line for line in told(lambda: opened(path)) if "label" in line]
    assert line.startswith(f"task 'fish', {path}: 12 of 66 rows hold an input that also stands there with")
    with pytest.raises(DataError, match=f"^task 'fish', {path}: all 60 inputs are the same"):
        opened(saved(X.numpy() * 0, Y.numpy()))


@pytest.mark.parametrize("how", ["same file", "a copy", "its first half"])
def test_test_data_that_was_trained_on_is_refused(how, saved):
    path = saved(X.numpy(), Y.numpy())
    rows = 30 if how == "its first half" else 60
    test = path if how == "same file" else saved(X[:rows].numpy(), Y[:rows].numpy(), "test.npz")
    with pytest.raises(DataError, match=f"^task 'fish', {test}: {rows} of {rows} test rows are training"):
        opened(path, test=str(test))


def test_test_rows_that_were_trained_on_are_counted(saved):
    path, few = saved(X.numpy(), Y.numpy()), torch.cat([X[:15], X[15:] + 9]).numpy()
    test = saved(few, Y.numpy(), "test.npz")
    (line,) = told(lambda: opened(path, test=str(test)))
    assert line.startswith(f"task 'fish', {test}: 15 of 60 test rows are training rows too, so accuracy")
    twice = saved(torch.cat([X, X]).numpy(), torch.cat([Y, Y]).numpy(), "twice.npz")
    (line,) = told(lambda: opened(twice))
    assert f"{twice}: " in line
    assert " of 30 test rows are training rows too" in line


def test_a_class_with_few_rows_to_train_on_or_test_with_is_named(saved):
    path = saved(X.numpy(), Y.numpy())
    (line,) = told(lambda: opened(path, held_out=0.9999))
    assert line.startswith("task 'fish': class cod has 1 of 3 rows to train on; fewer than 5 say little")
    (line,) = told(lambda: opened(path, held_out=0.01))
    assert "class cod has 1 of 3 rows to test with" in line
    assert told(lambda: opened(path)) == []
