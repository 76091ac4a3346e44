"""Checkpoints are whole or not there, and tell when they were tampered with."""

import json
import os
from pathlib import Path

import pytest
import torch

from eideticnet import CheckpointError, EideticNetwork
from tests.support.forked import Forked
from tests.support.small_networks import LIGHT, QUICK, fit, held_out, names, task_loader, trained
from tests.support.small_trunks import TRUNKS


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_loaded_network_answers_with_the_same_bits(trunk, tmp_path):
    net = trained(3, trunk=trunk)
    net.metadata = {"note": "ünïcode"}
    net.save(tmp_path / "run")
    loaded = EideticNetwork.load(tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(net(held_out()), loaded(held_out()), strict=True))
    assert loaded.digests() == net.digests()
    assert loaded.capacity() == net.capacity()
    assert loaded.metadata == net.metadata
    assert all(torch.equal(a.probes, b.probes) for a, b in zip(net.tasks, loaded.tasks, strict=True))


def test_learning_goes_on_from_a_loaded_network_as_from_the_original(tmp_path):
    net = trained(2)
    net.save(tmp_path)
    loaded = EideticNetwork.load(tmp_path)
    for n in (net, loaded):
        n.train_task("third", task_loader(8), names(2), training=QUICK, pruning=LIGHT)
    assert loaded.digests() == net.digests()


def test_a_frozen_tasks_file_is_written_once_and_old_routers_are_removed(tmp_path):
    net = trained(2)
    net.save(tmp_path)
    first = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    net.train_task("third", task_loader(8), names(2), training=QUICK, pruning=LIGHT)
    fit(net)
    net.save(tmp_path)
    second = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    kept = [name for name in first if name.startswith("t")]
    assert len(kept) == 2
    assert all(first[name] == second[name] for name in kept)
    assert sum(name.startswith("router") for name in second) == 1


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path):
    trained(2).save(tmp_path)
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("part", ["t0", "router", "probes", "network"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_file_is_named(part, damage, tmp_path):
    trained(1).save(tmp_path)
    path = next(tmp_path.glob(f"{part}*"))
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[20 if part == "probes" else -3] ^= 0x80  # of the probes the header: any number is an input
        path.write_bytes(data)
    with pytest.raises(CheckpointError, match=path.name):
        EideticNetwork.load(tmp_path)


def edit(folder, change):
    """Change ``network.json`` in a way that keeps it valid JSON."""
    manifest = json.loads((folder / "network.json").read_text())
    change(manifest)
    (folder / "network.json").write_text(json.dumps(manifest))


def set_operation(name, *args):
    def change(manifest):
        step = next(s for s in manifest["program"]["steps"] if s["rule"] == "elementwise")
        step["options"] |= {"op": name, **({"args": list(args)} if args else {})}

    return change


@pytest.mark.parametrize(
    "change",
    [
        set_operation("aten.tanh.default"),
        lambda m: m["tasks"][0].update(classes=["other", "names"]),
        lambda m: m["inputs"].update(std=[2.0]),
    ],
    ids=["another operation", "other classes", "another normalisation"],
)
def test_a_change_of_what_no_tensor_holds_is_noticed_by_the_digest(change, tmp_path):
    trained(1).save(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(CheckpointError, match="task 'task 0' is not what was saved"):
        EideticNetwork.load(tmp_path)


def test_a_checkpoint_can_not_make_the_network_run_any_other_operation(tmp_path):
    trained(1).save(tmp_path)
    edit(tmp_path, set_operation("aten.from_file.default", str(tmp_path / "made"), True, 16))
    with pytest.raises(CheckpointError, match="no rule covers"):
        EideticNetwork.load(tmp_path)
    assert not (tmp_path / "made").exists()


def test_a_checkpoint_can_not_name_a_file_outside_its_folder(tmp_path):
    trained(1).save(tmp_path / "a")
    edit(tmp_path / "a", lambda m: m["blocks"][0].update(file="../b.safetensors"))
    with pytest.raises(CheckpointError, match="no name of a tensor file"):
        EideticNetwork.load(tmp_path / "a")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.touch(), lambda path: path.symlink_to(path)])
def test_what_is_no_folder_is_no_checkpoint_and_is_not_waited_for(make, tmp_path):
    make(tmp_path / "run")
    with pytest.raises(CheckpointError, match=f"no checkpoint in {tmp_path}/run"):
        EideticNetwork.load(tmp_path / "run")


def test_saving_repairs_a_damaged_file(tmp_path):
    net = trained(1)
    net.save(tmp_path)
    path = next(tmp_path.glob("t0*"))
    path.write_bytes(path.read_bytes()[:50])
    net.save(tmp_path)
    EideticNetwork.load(tmp_path).verify()


def test_a_checkpoint_of_another_schema_is_refused(tmp_path):
    trained(1).save(tmp_path)
    manifest = json.loads((tmp_path / "network.json").read_text())
    (tmp_path / "network.json").write_text(json.dumps({**manifest, "schema": 99}))
    with pytest.raises(CheckpointError, match="schema 99"):
        EideticNetwork.load(tmp_path)


def test_no_checkpoint_is_a_clear_error(tmp_path):
    with pytest.raises(
        CheckpointError, match=f"no checkpoint in {tmp_path}/nowhere: there is no such folder; e"
    ):
        EideticNetwork.load(tmp_path / "nowhere")
    (tmp_path / "animals").mkdir()
    (tmp_path / "animals" / "network.json").touch()
    with pytest.raises(CheckpointError, match=r"no such folder; did you mean '.*/animals'\?"):
        EideticNetwork.load(tmp_path / "animal")
    with pytest.raises(CheckpointError, match=f"no checkpoint in {tmp_path}: it holds no network.json"):
        EideticNetwork.load(tmp_path)


ROOT = Path(__file__).parents[2]
KILLED = """
import os, shutil, sys
import torch
torch.set_num_threads(1)
sys.path[:0] = {path!r}
from tests.support.small_networks import *
from eideticnet import EideticNetwork

def dying(function, left):
    def wrapper(*args, **kwargs):
        left.pop()
        if not left:
            os._exit(9)  # nothing is cleaned up, as by kill -9
        return function(*args, **kwargs)
    return wrapper

net = EideticNetwork.load({before!r})
net.train_task("second", task_loader(8), names(2), training=QUICK, pruning=LIGHT)
fit(net)
for call in range(1, 20):
    shutil.copytree({before!r}, {folder!r} + str(call))
    if os.fork() == 0:
        left = [0] * call
        for name in ("fsync", "replace", "rename", "unlink"):
            setattr(os, name, dying(getattr(os, name), left))
        net.save({folder!r} + str(call))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_a_process_killed_at_any_write_leaves_the_state_before_or_after(tmp_path):
    net = trained(1)
    net.save(tmp_path / "before")
    script = KILLED.format(path=[str(ROOT)], before=str(tmp_path / "before"), folder=str(tmp_path / "after"))
    child = Forked(script, tmp_path).end()
    assert child.returncode == 0, child.stderr
    codes = [int(line) for line in child.stdout.split()]
    assert codes == sorted(codes, reverse=True), "first the calls that were killed, then those past the last"
    assert codes[0] == 9
    assert codes[-1] == 0
    counts = []
    for call in range(1, 20):
        folder = tmp_path / f"after{call}"
        loaded = EideticNetwork.load(folder)
        assert loaded.digests()["task 0"] == net.digests()["task 0"]
        counts.append(len(loaded.tasks))
        loaded.save(folder)
        assert not list(folder.glob("*.partial"))
    assert counts == sorted(counts)
    assert set(counts) == {1, 2}


def test_a_full_disk_is_a_clear_error_and_keeps_what_was_saved(tmp_path, monkeypatch):
    net = trained(1)
    net.save(tmp_path)
    net.train_task("second", task_loader(8), names(2), training=QUICK, pruning=LIGHT)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        net.save(tmp_path)
    monkeypatch.undo()
    assert len(EideticNetwork.load(tmp_path).tasks) == 1
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["blocks"][0].update(unread={"layers.0": []}),
        lambda m: m["program"]["groups"].update({"layers.0": 99}),
        lambda m: m.update(seed=7),
        lambda m: m.update(answering={"task 0": 5}),
        lambda m: m["tasks"][0].update(name="another"),
        lambda m: m["tasks"].reverse(),
        lambda m: m["metadata"].update(note="new"),
        lambda m: m["blocks"][0]["reads"].append(1),
        lambda m: m["blocks"][-1].update(unread=[1]),
        lambda m: m["program"]["steps"][0].update(inputs=[1]),
    ],
)
def test_whatever_is_changed_in_the_manifest_is_noticed(change, tmp_path):
    trained(2).save(tmp_path)
    path = tmp_path / "network.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError):
        EideticNetwork.load(tmp_path)
