"""By which inputs, and how, the routing of a new version is judged."""

import io
import json
import re
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import nn
from typer.testing import CliRunner

from eideticnet import EideticNetwork, Routing, batches
from eideticnet.contract.bundle import BundledTask, Input
from eideticnet.export.archive.labeled_inputs import check_indices, read_inputs, real_inputs
from eideticnet.export.errors import ArchiveError, InputsError
from eideticnet.export.proof.doubts import wilson_interval
from eideticnet.export.proof.verify import verify
from eideticnet.menu import app
from tests.support.archived_networks import archived, edited, grown, normalised
from tests.support.small_networks import LIGHT, QUICK, names, task_data
from tests.support.small_trunks import FEATURES

WELL = replace(QUICK, max_epochs=12)
FLOATS = Input(shape=[2], dtype="float32")
TOKENS = Input(shape=[2], dtype="int64", low=0, high=10)


def real(path, rows=240):
    """Inputs of the first two tasks, and which they are of."""
    x = np.concatenate([task_data(i, 2 + i, rows)[0].numpy() for i in range(2)])
    np.savez(path, x=x, task=np.repeat([0, 1], rows))
    return path


@pytest.mark.parametrize(
    ("spec", "x", "message"),
    [
        (TOKENS, [[1.0, 2.5]], "whole numbers"),
        (TOKENS, [[1.0, np.nan]], "whole numbers"),
        (TOKENS, [[1, 1 << 63]], "whole numbers"),
        (TOKENS, [[1, 11]], "expected 0 to 10"),
        (TOKENS, [[-1, 3]], "expected 0 to 10"),
        (FLOATS, [[1.0, np.nan]], "finite"),
        (FLOATS, [[1.0, 1e300]], "finite"),
        (FLOATS, [["1", "2"]], "expected numbers"),
        (FLOATS, [[1j, 2]], "expected numbers"),
    ],
)
def test_inputs_that_no_request_could_hold_are_refused(spec, x, message):
    with pytest.raises(ArchiveError, match=message):
        real_inputs({"x": np.array(x, np.uint64 if (1 << 63) in x[0] else None)}, spec, "real.npz")


@pytest.mark.parametrize(
    ("task", "label", "message"),
    [
        ([0, 2], None, r"task is 2 in row 1; expected a place in the list of tasks, 0 to 1"),
        ([0, -1], None, "task is -1 in row 1"),
        ([0, 1], [1, 3], r"label is 3 in row 1; expected a place in the classes of its own task, 0 to 2"),
        ([0, 1], [2, 2], r"label is 2 in row 0; expected a place in the classes of its own task, 0 to 1"),
        ([0, 1], [1, 2], None),
        ([5, 9], [1, 2], "task is 5 in row 0"),
    ],
)
def test_tasks_and_labels_that_no_version_could_answer_are_refused(task, label, message):
    """They would be wrong by both versions, so nothing could ever seem to get worse."""
    arrays = {"x": np.zeros((2, 2)), "task": np.array(task)} | ({"label": np.array(label)} if label else {})
    found = real_inputs(arrays, FLOATS, "real.npz")
    tasks = [BundledTask(name=c, owner=c, classes=list(c), neurons=1) for c in ("ab", "cde")]
    if message is None:
        check_indices(found, tasks)
    else:
        with pytest.raises(ArchiveError, match=message):
            check_indices(found, tasks)


def test_a_verdict_needs_tasks_and_labels_that_there_are(tmp_path):
    old, data = archived(normalised(2), tmp_path / "old"), dict(np.load(real(tmp_path / "real.npz")))
    np.savez(tmp_path / "wrong.npz", **data, label=data["task"] + 7)
    with pytest.raises(ArchiveError, match=r"wrong\.npz: label is 7 in row 0"):
        verify(old, old, tmp_path / "wrong.npz")


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """Two tasks of 2 and 3 classes, found and answered well."""
    return archived(clear(), tmp_path_factory.mktemp("old"))


def far_apart(rows=240):
    """x, task and label of two tasks that nobody could mistake for each other."""
    random = np.random.default_rng(0)
    task, label = np.repeat([0, 1], rows), np.concatenate([np.arange(rows) % 2, np.arange(rows) % 3])
    x = random.normal(size=(2 * rows, FEATURES)).astype(np.float32)
    x[np.arange(2 * rows), task * 3 + label] += 12
    return {"x": x, "task": task, "label": label}


def clear():
    data = far_apart()
    trunk = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
    net = EideticNetwork(trunk, torch.zeros(2, FEATURES), seed=0)
    loaders = {}
    for task, name in enumerate(("a", "b")):
        mine = data["task"] == task
        x, y = torch.from_numpy(data["x"][mine]), torch.from_numpy(data["label"][mine])
        loaders[name] = batches(x, y, 32)
        net.train_task(name, loaders[name], names(2 + task), training=WELL, pruning=LIGHT)
    net.fit_router(loaders, training=WELL, routing=Routing("block", "hard"))
    return net


def swapped(data):
    data["task"], data["label"] = 1 - data["task"], data["label"] % 2


def shuffled(data):
    data["task"] = np.random.default_rng(1).permutation(data["task"])
    del data["label"]


def all_of_one_task(data):
    data["task"][:] = 0
    del data["label"]


def flipped_labels(data):
    data["label"] = np.where(data["task"] == 0, 1 - data["label"], data["label"])


def shifted_labels(data):
    data["label"] = np.where(data["task"] == 1, (data["label"] + 1) % 3, data["label"])


def shuffled_labels(data):
    data["label"][240:] = np.random.default_rng(1).permutation(data["label"][240:])


def one_row_many_times(data):
    data["x"][:240] = data["x"][0]
    data["label"][:240] = data["label"][0]


def normalised_twice(data):
    data["x"] = data["x"] / 1000


SPOILT = {
    swapped: r"real\.npz: of the 240 rows of task 'a' \(number 0\) 0 are found to be of it, and 100% of the",
    shuffled: "of the 240 rows of task 'a' .* are found to be of it, (no more than by guessing among 2|and)",
    all_of_one_task: "task 'b': 0 real inputs",
    flipped_labels: r"rows of task 'a' .* 0 of these have the label .*by guessing \(50%\): are labels",
    shifted_labels: "rows of task 'b' .* are labels shifted",
    shuffled_labels: "rows of task 'b' .* are labels shifted",
    one_row_many_times: "task 'a': 240 real inputs of which 1 differ, 200 are needed",
    normalised_twice: "not in raw units",
}


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda f: f.__name__)
def test_inputs_on_which_the_old_version_is_at_chance_measure_nothing(spoil, old, tmp_path):
    data = far_apart()
    spoil(data)
    np.savez(tmp_path / "real.npz", **data)
    found = verify(old, old, tmp_path / "real.npz").routing
    assert found.status == "not measured"
    assert re.search(SPOILT[spoil], " ".join(found.reasons)), found.reasons


def test_what_the_old_version_answers_well_is_measured(old, tmp_path):
    np.savez(tmp_path / "real.npz", **far_apart())
    found = verify(old, old, tmp_path / "real.npz").routing
    assert (found.status, found.reasons) == ("kept", [])
    assert min(task.old for task in found.tasks) > 0.9


@pytest.mark.parametrize("spoil", [swapped, flipped_labels])
def test_inputs_that_are_mixed_up_do_not_travel_in_an_archive(spoil, tmp_path):
    data = far_apart()
    spoil(data)
    np.savez(tmp_path / "mixed.npz", **data)
    with pytest.raises(ArchiveError, match=r"mixed\.npz: of the 240 rows of task 'a'"):
        archived(clear(), tmp_path / "new", validation=tmp_path / "mixed.npz")


def test_whole_numbers_may_be_written_as_floats():
    found = real_inputs({"x": np.array([[1.0, 10.0]])}, TOKENS, "real.npz").x
    assert (found.dtype, found.tolist()) == (np.int64, [[1, 10]])


def packed(method=zipfile.ZIP_STORED, members=(("x.npy", b"no array"),)):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return bytearray(file.getvalue())


def locked():
    """It says that its member is encrypted."""
    data = packed()
    data[data.rindex(b"PK\1\2") + 8] |= 1
    return data


def torn(method):
    data = packed(method, [("x.npy", np.random.default_rng(0).bytes(9000))])
    data[3000:3100] = bytes(100)
    return data


def brain_floats():
    head = json.dumps({"x": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [0, 4]}}).encode()
    return len(head).to_bytes(8, "little") + head + bytes(4)


@pytest.mark.parametrize(
    ("suffix", "data", "message"),
    [
        (".npz", packed(), "holds no x"),
        (".npz", packed(members=[("x.npy", b"1"), ("x", b"2")]), "holds an array twice"),
        (".npz", locked(), "encrypted"),
        (".npz", torn(zipfile.ZIP_STORED), "CRC"),
        (".npz", torn(zipfile.ZIP_DEFLATED), "decompressing|CRC"),
        (".npz", torn(zipfile.ZIP_BZIP2), "Invalid data|CRC"),
        (".npz", torn(zipfile.ZIP_LZMA), "Corrupt|CRC"),
        (".safetensors", brain_floats(), "type 'BF16', which numpy has not"),
    ],
)
def test_whatever_is_wrong_inside_a_file_of_real_inputs_is_told_by_its_name(suffix, data, message, tmp_path):
    path = tmp_path / f"real{suffix}"
    path.write_bytes(data)
    with pytest.raises(InputsError, match=rf"real\{suffix}.*({message})"):
        read_inputs(path, FLOATS)


@pytest.mark.parametrize("names", [("tasks",), ("y",), ("label",), ("task", "labels")])
def test_arrays_whose_names_say_nothing_are_not_passed_over(names):
    """The operator would take agreement for accuracy."""
    arrays = {"x": np.zeros((2, 2)), **{name: np.zeros(2, int) for name in names}}
    with pytest.raises(InputsError, match=rf"real\.npz holds '?{names[-1]}'?(; expected| without task)"):
        real_inputs(arrays, FLOATS, "real.npz")


def test_a_file_of_another_kind_is_refused_by_its_name(tmp_path):
    np.save(tmp_path / "real.npy", np.zeros((3, 6)))
    old = archived(normalised(2), tmp_path / "old")
    with pytest.raises(ArchiveError, match=r"expected a file \.npz or \.safetensors"):
        verify(old, old, tmp_path / "real.npy")


def test_a_version_that_calls_everything_none_of_its_own_is_refused(tmp_path):
    """Its threshold lies above any probability; it is judged with the threshold that it is served with."""
    old = archived(normalised(2), tmp_path / "old")
    new = edited(old, tmp_path / "net.mar", bundle=lambda b: b["routing"].update(threshold=1.5))
    found = verify(new, old, real(tmp_path / "real.npz"))
    assert found.verdict == "refused"
    assert [task.new for task in found.routing.tasks] == [0, 0]


def test_a_newcomer_is_judged_by_the_inputs_of_the_version_that_it_is_to_replace(tmp_path):
    net, later, _ = grown()
    old = archived(net, tmp_path / "old", validation=real(tmp_path / "real.npz"))
    new = archived(later, tmp_path / "new", "2.0", validation=real(tmp_path / "other.npz", 250))
    found = verify(new, old, max_drop=1.0).routing
    assert found.source == f"{old}: validation.safetensors"
    assert {task.rows for task in found.tasks} == {240}


def test_names_that_look_like_markup_are_shown_as_they_are(tmp_path):
    def rename(bundle):
        bundle["tasks"][0]["name"] = "[/x] [red]"

    old = edited(archived(normalised(2), tmp_path / "a"), tmp_path / "[b].mar", bundle=rename)
    result = CliRunner().invoke(app, ["verify", str(old), "--against", str(old)])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["tasks"][0]["name"] == "[/x] [red]"
    assert "[/x] [red]" in result.stderr
    assert f"{old} against {old}" in result.stderr


@given(st.integers(0, 400).flatmap(lambda rows: st.tuples(st.integers(0, rows), st.just(rows))))
def test_the_interval_of_a_share_is_wilsons(counts):
    right, rows = counts
    expected = binomtest(right, rows).proportion_ci(method="wilson") if rows else (0.0, 1.0)
    assert wilson_interval(right, rows) == pytest.approx(tuple(expected), abs=1e-12)
