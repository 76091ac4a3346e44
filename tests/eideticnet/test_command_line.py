"""``train`` and ``add-task`` as a user runs them, on the user's own files."""

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from eideticnet import EideticNetwork
from tests.support.eidetic_command import EIDETIC
from tests.support.forked import eidetic
from tests.support.small_networks import task_data
from tests.support.user_project import CONFIG, TASKS
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
WITH_A_JOURNAL_OF_EVERY_EPOCH = (
    "from functools import partial\n"
    "from eideticnet.runs import run\n"
    "run.Journal = partial(run.Journal, interval=0.0)\n"
)


def test_a_users_own_trunk_and_files_become_a_network_and_a_task_is_added_on_top(project, run):
    run("train", "config.toml")
    net = EideticNetwork.load(project / "runs/mine")
    assert [t.name for t in net.tasks] == ["birds", "fish"]
    assert set(net.metadata["report"]) == {"birds", "fish"}
    x = torch.randn(5, 6)
    before, digests = net.task_logits(x, "birds"), net.digests()

    output = run("add-task", "runs/mine", "more.toml").stdout
    assert re.search(r"birds \(.*birds\.npz\), fish \(.*fish\.safetensors\)", output)
    after = EideticNetwork.load(project / "runs/mine")
    assert [t.name for t in after.tasks] == ["birds", "fish", "frogs"]
    assert torch.equal(after.task_logits(x, "birds"), before)
    assert {n: d for n, d in after.digests().items() if n != "frogs"} == digests
    assert after(x).task_probs.shape == (5, 3)

    assert "is complete: 3 tasks" in run("train", "config.toml").stdout
    assert "is complete: 3 tasks" in run("add-task", "runs/mine", "more.toml").stdout


def test_equal_configurations_give_equal_networks(project, run):
    run("train", "config.toml", "--out", "a")
    run("train", "config.toml", "--out", "b")
    assert EideticNetwork.load(project / "a").digests() == EideticNetwork.load(project / "b").digests()


def test_old_data_that_can_not_be_found_is_named_before_anything_is_trained(project, run):
    run("train", "config.toml")
    (project / "birds.npz").unlink()
    before = (project / "runs/mine/network.json").read_bytes()
    result = run("add-task", "runs/mine", "more.toml", check=False)
    assert result.returncode == 1
    assert "the router needs the data of every task" in result.stderr
    assert "birds.npz" in result.stderr
    assert (project / "runs/mine/network.json").read_bytes() == before


KEPT = """
memory = 10
validation = 0.2
[routing]
router = "taps"
decision = "joint"
false_rejections = 0.1
[trunk]"""


def test_a_run_that_keeps_examples_learns_on_without_the_old_files(project, run):
    (project / "config.toml").write_text(CONFIG.replace("[trunk]", KEPT))
    run("train", "config.toml")
    fitted = EideticNetwork.load(project / "runs/mine").learned.routing
    assert (fitted.router, fitted.decision, fitted.false_rejections) == ("taps", "joint", 0.1)
    assert fitted.threshold > 0
    (project / "birds.npz").unlink()
    run("add-task", "runs/mine", "more.toml")
    net = EideticNetwork.load(project / "runs/mine")
    assert [len(t.memory.x) for t in net.tasks] == [10, 10, 10]
    assert net.learned.routing is not None


def test_a_run_says_which_router_it_came_to_have(project, run):
    told = run("train", "config.toml", "--out", "a").stdout
    assert re.search(r"router: \d+ of 24 neurons in 0, \d+ of 24 in 2 \(taps\)", told)
    apart = CONFIG.replace("[trunk]", 'validation = 0.2\n[routing]\nrouter = "experts"\n[trunk]')
    (project / "config.toml").write_text(apart)
    assert "(experts)" in run("train", "config.toml", "--out", "b").stdout
    assert EideticNetwork.load(project / "b").learned.routing.router == "experts"


def test_experts_need_moments_of_a_task_whose_data_is_gone(project, run):
    kept = 'validation = 0.2\nmemory = 10\n[routing]\nrouter = "experts"\n[trunk]'
    for moments, code in (("", 1), ("moments = 16\n", 0)):
        (project / "config.toml").write_text(CONFIG.replace("[trunk]", moments + kept))
        run("train", "config.toml", "--out", f"run{code}")
        (project / "birds.npz").rename(project / "gone.npz")
        result = run("add-task", f"run{code}", "more.toml", check=False)
        assert (result.returncode, "birds.npz" in result.stderr) == (code, bool(code))
        (project / "gone.npz").rename(project / "birds.npz")


def test_a_run_that_keeps_moments_needs_no_old_file_and_no_neuron_for_its_router(project, run):
    kept = 'moments = 16\n[routing]\nrouter = "moments"\n[trunk]'
    (project / "config.toml").write_text(CONFIG.replace("[trunk]", kept))
    run("train", "config.toml")
    (project / "birds.npz").unlink()
    assert "router: 0 of 24" in run("add-task", "runs/mine", "more.toml").stdout
    assert EideticNetwork.load(project / "runs/mine").learned.routing.router == "moments"


def train_until_killed(project, changes):
    """Run ``train config.toml`` in a process of its own whose code is changed to kill it."""
    killed = eidetic("train", "config.toml", cwd=project, changes=f"import os\n{changes}").end()
    assert killed.returncode == -signal.SIGKILL


def test_an_interrupted_run_goes_on_after_the_last_finished_task(project, run):
    code = (
        "from eideticnet import network, __main__\n"
        "def stop(*args, **kwargs): os.kill(os.getpid(), 9)\n"
        "network.EideticNetwork.fit_router = stop\n"
    )
    train_until_killed(project, code)
    half = EideticNetwork.load(project / "runs/mine")
    assert len(half.tasks) == 2
    assert half.learned.router() is None
    output = run("train", "config.toml").stdout
    assert not re.search(r"birds: \d+ of 24", output)
    assert re.search(r"router: \d+ of 24", output)
    whole = EideticNetwork.load(project / "runs/mine")
    assert whole.digests() == half.digests()
    run("train", "config.toml", "--out", "uninterrupted")
    other = EideticNetwork.load(project / "uninterrupted")
    x = torch.randn(7, 6)
    assert all(torch.equal(a, b) for a, b in zip(whole(x), other(x), strict=True))


def test_a_run_that_is_killed_inside_a_task_goes_on_there(project, run):
    code = (
        f"{WITH_A_JOURNAL_OF_EVERY_EPOCH}"
        "from eideticnet.learn import training\n"
        "epochs, train_epoch = [], training.train_epoch\n"
        "def counted(*args):\n"
        "    if len(epochs) == 15: os.kill(os.getpid(), 9)\n"
        "    epochs.append(args)\n"
        "    return train_epoch(*args)\n"
        "training.train_epoch = counted\n"
    )
    train_until_killed(project, code)
    assert (project / "runs/mine/journal.safetensors").exists()
    output = run("train", "config.toml").stdout
    assert re.search(r"going on after \d+ epochs that were done before the interruption", output)
    assert not (project / "runs/mine/journal.safetensors").exists()
    run("train", "config.toml", "--out", "uninterrupted")
    whole, other = (EideticNetwork.load(project / f) for f in ("runs/mine", "uninterrupted"))
    fingerprints = [{o: n.learned.block(o).fingerprint for o in n.learned.blocks} for n in (whole, other)]
    assert fingerprints[0] == fingerprints[1]


def test_ctrl_c_ends_without_a_stack_trace(project):
    (project / "config.toml").write_text(
        CONFIG.replace("max_epochs = 4", "max_epochs = 100000\n").replace("patience = 2", "patience = 90000")
    )
    process = eidetic("train", "config.toml", cwd=project, changes=WITH_A_JOURNAL_OF_EVERY_EPOCH)
    until((project / "runs/mine/journal.safetensors").exists)  # it is training then
    os.kill(process.pid, signal.SIGINT)
    ended, then = process.end(), "what is learned is in runs/mine; the same command goes on from there"
    assert (ended.returncode, ended.stderr) == (130, f"interrupted: {then}\n")


def test_a_program_that_imports_the_library_keeps_its_own_ctrl_c(tmp_path):
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("import eideticnet\n")
    shows = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    (package / "__main__.py").write_text(shows)
    command = [sys.executable, "-m", "mine", "-m", "eideticnet"]
    assert subprocess.check_output(command, cwd=tmp_path) == b"True\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_every_command_ends_with_the_status_of_the_signal_and_says_what_comes_then(
    project, run, monkeypatch, number
):
    from eideticnet.runs import report
    from eideticnet.runs import run as runs

    def stop(*args):
        before = signal.getsignal(number)
        signal.raise_signal(number)
        raise AssertionError(before)

    run("train", "config.toml")
    for owner, name, command, then in (
        (runs, "complete", ["train", "config.toml", "--out", "b"], "in b; the same command goes on"),
        (runs, "open_data", ["add-task", "runs/mine", "more.toml"], "in runs/mine; the same command goes on"),
        (report, "write_report", ["report", "runs/mine"], "no report was written"),
        (runs, "write_held_out", ["held-out", "runs/mine", "x.safetensors"], "nothing was written"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, stop)
            result = run(*command, check=False)
        assert result.returncode == 128 + number
        assert result.stderr.startswith("interrupted: ")
        assert then in result.stderr
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "mine"', "", ["config.toml: name is missing"]),
        ("seed = 1", "sede = 1", ["config.toml: sede = 1: there is no such key; did you mean 'seed'?"]),
        ("shape = [6]", "shape = [5]", ["shape"]),
        ("step = 0.5", "step = 1.5", ["pruning step 1.5"]),
        ("[pruning]", "[router_pruning]\nstep = 0.0\n[pruning]", ["pruning step 0.0"]),
        (
            "[pruning]",
            "[routing]\npruned = false\n[router_pruning]\nstep = 0.5\n[pruning]",
            ["[routing] pruned = false, but [router_pruning] says how"],
        ),
        ('name = "fish"', 'name = "birds"', ["two tasks have the same name"]),
        ("my_trunk:build", "my_trunk:missing", ["trunk 'my_trunk:missing': my_trunk has no 'missing'"]),
        ("my_trunk:build", "os:getcwd", ["getcwd"]),
        ("birds.npz", "nowhere.npz", ["birds", "nowhere.npz"]),
        ("birds.npz", "birds.csv", ["birds.csv", ".npz, .safetensors, folder or module:callable"]),
        ('["owl", "wren"]', '["owl"]', ["two or more"]),
        ("[trunk]", "[trunk", ["config.toml"]),
    ],
)
def test_a_wrong_configuration_is_one_line_that_names_the_field(project, run, old, new, words):
    text = CONFIG.replace(old, new)
    if old == "my_trunk:build" and new.startswith("os"):
        text = text.replace("arguments = { width = 24 }", "")
    (project / "config.toml").write_text(text)
    result = run("train", "config.toml", check=False)
    assert result.returncode == 1, result.stdout
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ")
    for word in words:
        assert word in result.stderr
    assert not (project / "runs/mine/network.json").exists()


def test_a_run_made_from_another_configuration_is_not_touched(project, run):
    run("train", "config.toml")
    before = (project / "runs/mine/network.json").read_bytes()
    (project / "config.toml").write_text(CONFIG.replace("seed = 1", "seed = 2"))
    result = run("train", "config.toml", check=False)
    assert result.returncode == 1
    assert "another configuration" in result.stderr
    assert (project / "runs/mine/network.json").read_bytes() == before


def test_a_second_task_of_the_same_name_is_refused(project, run):
    run("train", "config.toml")
    (project / "more.toml").write_text(TASKS.replace("frogs", "birds"))
    result = run("add-task", "runs/mine", "more.toml", check=False)
    assert result.returncode == 1
    assert "another task 'birds'" in result.stderr


def test_probes_are_synthetic_unless_real_ones_are_allowed(project, run):
    run("train", "config.toml", "--out", "synthetic")
    (project / "config.toml").write_text(CONFIG.replace("seed = 1", 'seed = 1\nprobes = "real"'))
    run("train", "config.toml", "--out", "real")
    rows = {tuple(r) for r in task_data(1, 2, 60)[0].tolist()}
    kept = {
        kind: EideticNetwork.load(project / kind).tasks[0].probes.tolist() for kind in ("synthetic", "real")
    }
    assert all(tuple(r) in rows for r in kept["real"])
    assert not any(tuple(r) in rows for r in kept["synthetic"])


def test_a_full_disk_keeps_what_was_saved_and_says_so_of_nothing_else(project, run, monkeypatch):
    import eideticnet.checkpoint

    writes, write = [], eideticnet.checkpoint.write_whole

    def filling(path, data):
        writes.append(path.name)
        if writes.count("network.json") == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr("eideticnet.checkpoint.write_whole", filling)
    error = run("train", "config.toml", check=False).error
    assert "No space left on device" in error
    assert "runs/mine keeps what is learned (birds), and the same command goes on" in error
    monkeypatch.undo()
    monkeypatch.chdir(project)
    run("train", "config.toml")
    run("train", "config.toml", "--out", "other")
    mine, other = (EideticNetwork.load(project / folder).digests() for folder in ("runs/mine", "other"))
    assert mine == other


def test_help_lists_the_commands():
    text = subprocess.run([EIDETIC, "--help"], capture_output=True, text=True, check=True).stdout
    assert "train" in text
    assert "add-task" in text


def test_a_task_file_finds_its_data_beside_itself(project, run):
    run("train", "config.toml")
    (project / "new").mkdir()
    (project / "more.toml").rename(project / "new/more.toml")
    (project / "frogs.npz").rename(project / "new/frogs.npz")
    run("add-task", "runs/mine", "new/more.toml")
    assert [t.name for t in EideticNetwork.load(project / "runs/mine").tasks] == ["birds", "fish", "frogs"]


def test_names_that_look_like_markup_are_shown_as_they_are(project, run):
    (project / "config.toml").write_text(CONFIG.replace('name = "birds"', 'name = "[/x][b]birds"'))
    assert "│ [/x][b]birds │" in run("train", "config.toml").stdout


def test_a_setting_that_no_learned_task_depends_on_may_change(project, run):
    run("train", "config.toml")
    (project / "config.toml").write_text(CONFIG.replace("seed = 1", 'seed = 1\nwhen_full = "reuse"'))
    run("train", "config.toml")


def test_two_programs_never_work_on_one_run_at_a_time(project, run):
    begun = [eidetic("train", "config.toml", cwd=project) for _ in "ab"]
    both = [process.end() for process in begun]
    assert [p.returncode for p in both] == [0, 0]
    assert sum("is complete" in p.stdout for p in both) == 1
    EideticNetwork.load(project / "runs/mine").verify()


@pytest.mark.parametrize(
    ("y", "words"), [([0.5, 1] * 30, "fractions"), ([0, 2] * 30, "labels run from 0 to 2"), ([0], "1 labels")]
)
def test_labels_that_would_have_to_be_bent_are_refused(project, run, y, words):
    x, _ = task_data(1, 2, 60)
    np.savez(project / "birds.npz", x=x.numpy(), y=np.array(y))
    assert words in run("train", "config.toml", check=False).stderr


def test_a_configuration_may_say_what_a_task_reads_and_where_the_first_one_starts(project, run):
    (project / "trained.py").write_text(
        "import torch\nfrom my_trunk import build\n"
        "def trunk():\n    torch.manual_seed(5)\n    return build(24)\n"
    )
    config = CONFIG.replace('data = "birds.npz"', 'data = "birds.npz"\npretrained = "trained:trunk"')
    config = config.replace('data = "fish.safetensors"', 'data = "fish.safetensors"\nreads = []')
    (project / "config.toml").write_text(f'when_full = "widen"\n{config}')
    run("train", "config.toml", "--out", "reads")
    net = EideticNetwork.load(project / "reads")
    assert net.learned.block("t1").reads == ()
