"""What users do wrong on the command line is one line that says what, where, and what to do."""

import os
import pickle
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from eideticnet import ConfigError, EideticNetwork, Inputs, Pruning, Routing, Training, menu
from eideticnet.errors import CapacityError, RowError
from eideticnet.files import UnreadableError
from eideticnet.runs.config import CHANGEABLE, Config
from eideticnet.runs.problems import keys_of, validate
from eideticnet.serving.errors import ClosedError, DeadlineError, RequestError
from eideticnet.serving.torchserve.management import ManagementError
from tests.support.user_project import CONFIG, TASKS

ROOT = Path(__file__).parents[2]
ODD = """import torch
from torch import nn


def layer(cls, **arguments):
    trunk = cls()
    trunk.a = nn.Linear(6, 8)
    return trunk


class If(nn.Module):
    def forward(self, x):
        return self.a(x * 2 if x.sum() > 0 else x)


class Wrong(nn.Module):
    def forward(self, x):
        return self.a(x, 3)


class Sum(nn.Module):
    def forward(self, x):
        return self.a(x).sum()


def chooses(): return layer(If)
def wrong(): return layer(Wrong)
def sums(): return layer(Sum)
def empty(): return nn.Sequential(nn.Linear(6, 0), nn.ReLU())
def raises(): return {}["nope"]
def leaves(): raise SystemExit(3)
def narrow(): return nn.Sequential(nn.Linear(5, 8), nn.ReLU())
def nothing(): pass
def strings(): return torch.zeros(9, 6), ["owl"] * 9
"""


def changed(project, *replacements):
    text = CONFIG
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    (project / "config.toml").write_text(text)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("patience = 2", "patiens = 2", ["[training] patiens", "did you mean 'patience'?"]),
        ("[training]", "[traning]", ["[traning]", "did you mean 'training'?"]),
        ("step = 0.5", 'score = "tayler"', ["[pruning] score = 'tayler'", "did you mean 'taylor'?"]),
        ("step = 0.5", "threads = 1", ["[pruning] threads", "belongs at the top, before the first [table]"]),
        ("seed = 1", "max_epochs = 3", ["max_epochs", "belongs to [training]"]),
        ("classes = [", "clases = [", ["[[tasks]] 'birds' clases", "did you mean 'classes'?"]),
        ("[training]", "[[training]]", ["write [training], in one pair"]),
        (CONFIG[CONFIG.index("[[tasks]]") :], "[tasks]\nname = 'a'\n", ["write [[tasks]], in two pairs"]),
        (
            "[pruning]",
            "[router_pruning]\nmin_width = { a = 2 }\n[pruning]",
            ["config.toml: [router_pruning] min_width names"],
        ),
        ("[6]", "6", ["[input] shape = 6: it should be a valid list"]),
        ("patience = 2", "patience = 0", ["[training]: patience is 0: use a whole number of epochs from 1"]),
        ("[training]", "[routing]\npruning = 3\n[training]", ["[routing] pruning = 3: there is no such key"]),
        ("[6]", '["6x"]', ["[input] shape.0 = '6x'"]),
        ("[6]", "[true]", ["[input] shape.0 = True: it should be a number"]),
        ("seed = 1", "seed = true", ["seed = True: it should be a number"]),
        ("seed = 1", 'seed = "1"', ["seed = '1': it should be a number"]),
        ("patience = 2", "patience = true", ["[training] patience = True: it should be a number"]),
        ("step = 0.5", "step = 0.5\nlr_factor = true", ["[pruning] lr_factor = True: it should be a number"]),
        ("[6]", "[6]\nlow = nan", ["[input] low = nan: it should be a finite number"]),
        ("[6]", "[6]\nlow = 2.0\nhigh = 1.0", ["[input]: low 2.0 is above high 1.0"]),
        ("seed = 1", "[routing]\nrouter = 'tap'", ["[routing] router = 'tap'", "did you mean 'taps'?"]),
        (
            "seed = 1",
            "[routing]\nrouter = 'experts'",
            ["[routing] router", "set validation = 0.1 at the top"],
        ),
        ('name = "fish"', 'name = "fish"\nreads = ["brids"]', ["'fish' reads 'brids'", "mean 'birds'?"]),
        ('name = "fish"', 'name = "fish"\nreads = 3', ["'fish' reads = 3", "list or", "table"]),
        ('name = "fish"', 'name = "fish"\npretrained = "a:b"', ["'fish'", "only the first task"]),
        ('name = "fish"', 'name = "router"', ["[[tasks]] 'router'", "can't be a task's name"]),
        ('"cod", "eel", "ray"', '"cod", "cod"', ["[[tasks]] 'fish'", "cod"]),
        ('name = "fish"', 'name = "fish"\nreads = ["Tuple dictionary"]', ["reads 'Tuple dictionary'"]),
        ('name = "mine"', 'name = "my/../net"', ["name = 'my/../net'", "letters, digits"]),
        ("seed = 1", 'device = "cuda:99"', ["device = 'cuda:99'", "torch can use 'cpu'"]),
        ("seed = 1", 'device = "gpu"', ["device = 'gpu'", "torch can use 'cpu'"]),
        (
            "width = 24",
            "widht = 24",
            ["trunk 'my_trunk:build'", "'widht'; its arguments are (", "); did you mean 'width'?"],
        ),
        ("width = 24", "width = 'x'", ["trunk 'my_trunk:build'", "my_trunk.py:5: TypeError"]),
        ("my_trunk:build", "my_trnk:build", ["no my_trnk.py beside", "did you mean 'my_trunk'?"]),
        ("my_trunk:build", "my_trunk:biuld", ["my_trunk has no 'biuld'; did you mean 'build'?"]),
        ("my_trunk:build", "my_trunk.py:build", ["write it as module:callable", "'my_trunk:build'"]),
        ("my_trunk:build", "broken:build", ["trunk 'broken:build': broken.py:2: SyntaxError"]),
        ("my_trunk:build", "wants:build", ["wants.py:1: ModuleNotFoundError: No module named 'torchvison'"]),
        ("birds.npz", "odd:raises", ["task 'birds'", "odd.py:30: KeyError: 'nope'"]),
        ("birds.npz", "odd:leaves", ["task 'birds'", "odd.py:31: SystemExit: 3"]),
        ("birds.npz", "odd:nothing", ["task 'birds'", "returned NoneType"]),
        ("fish.safetensors", "odd:strings", ["task 'fish'"]),
        ("my_trunk:build", "random:build", ["another 'random'; give yours", "another name"]),
        ("birds.npz", "birds.npy", ["task 'birds'", "birds.npy: a .npy file holds one array", "as .npz"]),
        (
            '"birds.npz"',
            '"birds.npz"\ntest = "held.npz"',
            ["task 'birds': test = '", "held.npz': there is no such file"],
        ),
        ('name = "fish"', f'name = "{"f" * 3000}"', ["a task's name can't be", "fff..."]),
        ("birds.npz", "odd", ["task 'birds'", "no .npz, .safetensors, folder or module:callable"]),
        ("birds.npz", " ", ["[[tasks]] 'birds': data is empty"]),
        ("birds.npz", "circle.npz", ["task 'birds'", "circle.npz", "Too many levels of symbolic links"]),
        (
            'name = "fish"',
            'name = "fish"\nreads = { conv = ["birds"] }',
            ["config.toml: [[tasks]] 'fish' reads: no layer 'conv'; layers:"],
        ),
        ("seed = 1", "threads = 1000000", ["config.toml: threads = 1000000", "1024"]),
    ],
)
def test_a_mistake_in_the_file_or_the_code_that_it_names_is_one_line(project, run, old, new, words):
    (project / "odd.py").write_text(ODD)
    (project / "circle.npz").symlink_to("circle.npz")
    (project / "broken.py").write_text("x = 1\ndef build(:\n")
    (project / "random.py").write_text("def build(width): pass\n")
    (project / "wants.py").write_text("import torchvison\n")
    changed(project, (old, new))
    error = run("train", "config.toml", check=False).error
    for word in words:
        assert word in error
    assert not error.startswith("error: the router needs")
    assert len(error) < 900
    assert not (project / "runs/mine/network.json").exists()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("odd:chooses", ["odd.py:13", "torch.where"]),
        ("odd:wrong", ["odd.py:18: TypeError"]),
        ("odd:sums", ["takes all rows of a batch together", "dim=1"]),
        ("odd:empty", ["0.weight has shape (0, 6)", "a neuron or more"]),
        ("odd:raises", ["odd.py:30: KeyError"]),
        ("odd:leaves", ["odd.py:31: SystemExit"]),
        ("odd:narrow", ["shape (2, 6)", "2x6 and 5x8"]),
        ("odd:nothing", ["returned NoneType, not a Module"]),
    ],
)
def test_a_trunk_that_can_not_be_made_or_traced_is_blamed_by_file_and_line(project, run, target, words):
    (project / "odd.py").write_text(ODD)
    changed(project, ("my_trunk:build", target), ("arguments = { width = 24 }", ""))
    error = run("train", "config.toml", check=False).error
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "config.toml is empty"),
        (b"\x89PNG\xff", "no UTF-8 text"),
        (b"a = " + b"[" * 5000, "can't read config.toml: maximum recursion depth"),
        (b"a = " + b"9" * 5000, "can't read config.toml: Exceeds the limit"),
        (b"[trunk", "can't read config.toml: Expected ']'"),
        (b"seed = 1\nseed = 2", "a key or a table stands there twice (at"),
        (b"name = mine", "text without quotes (at"),
        (TASKS.encode(), "config.toml holds [[tasks]] alone: `add-task RUN config.toml`"),
        (None, "config.toml: it is a folder"),
    ],
)
def test_what_is_no_configuration_is_said_in_a_line(project, run, content, words):
    (project / "config.toml").unlink()
    if content is None:
        (project / "config.toml").mkdir()
    else:
        (project / "config.toml").write_bytes(content)
    assert words in run("train", "config.toml", check=False).error


def test_what_is_not_there_is_named_with_what_looks_like_it(project, run):
    assert "no file confg.toml; did you mean 'config.toml'?" in run("train", "confg.toml", check=False).error
    (project / "runs/mine").mkdir(parents=True)
    (project / "runs/mine/network.json").touch()
    assert "runs holds no run; did you mean 'runs/mine'?" in run("report", "runs", check=False).error
    assert "runs/mne holds no run; did you mean 'runs/mine'?" in run("report", "runs/mne", check=False).error
    assert not (project / "runs/mne").exists()


@pytest.mark.parametrize("out", ["my_trunk.py", "my_trunk.py/run", "/proc/run"])
def test_a_folder_that_can_not_be_written_to_is_one_line(project, run, out):
    assert f"can't write to {out}" in run("train", "config.toml", "--out", out, check=False).error


ERRORS = [
    UnreadableError(Path("a.npz"), "it is a pipe"),
    RowError(3, "holds NaN"),
    CapacityError("no free neuron", "widen"),
    RequestError(404, {"message": "no such model"}),
    DeadlineError(seconds=1.5),
    ClosedError(),
    ManagementError(0, "no answer"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_is_the_same_in_another_process(error):
    passed = pickle.loads(pickle.dumps(error))
    assert (type(passed), str(passed), vars(passed)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("file", ["config.toml", "birds.npz", "fish.safetensors", "piped.py"])
def test_a_pipe_is_not_waited_for(project, run, file):
    if file == "piped.py":
        changed(project, ("my_trunk:build", "piped:build"))
    (project / file).unlink(missing_ok=True)
    os.mkfifo(project / file)
    pipe = "it is a pipe; expected a regular file"
    wanted = "there is no piped.py" if file == "piped.py" else pipe
    assert wanted in run("train", "config.toml", check=False).error


def test_two_tasks_with_one_file_are_refused_before_training_unless_no_router_is_asked_for(project, run):
    one = ('["cod", "eel", "ray"]\ndata = "fish.safetensors"', '["cod", "eel"]\ndata = "birds.npz"')
    changed(project, one)
    error = run("train", "config.toml", check=False).error
    assert "tasks 'birds' and 'fish' hold the same inputs (60 of 60 rows of 'birds')" in error
    assert not (project / "runs/mine/network.json").exists()
    changed(project, one, ("[training]", '[routing]\nrouter = "none"\ndecision = "entropy"\n[training]'))
    run("train", "config.toml")


@pytest.mark.parametrize("command", [("train", "config.toml"), ("report", "runs/mine")])
def test_an_empty_out_names_nothing(project, run, command):
    before = sorted(project.iterdir())
    assert "--out is empty" in run(*command, "--out", "", check=False).error
    assert sorted(project.iterdir()) == before


@pytest.mark.filterwarnings("default")
def test_warnings_are_lines_of_ours_and_no_bar_is_drawn_where_there_is_no_terminal(project, run):
    (project / "warns.py").write_text(
        "import warnings\nfrom my_trunk import build as plain\ndef build(width):\n"
        "    for _ in range(2): warnings.warn('one\\ntwo')\n    return plain(width)\n"
    )
    changed(
        project,
        ("my_trunk:build", "warns:build"),
        ("learning_rate = 0.02", "learning_rate = 1e30"),
        ("seed = 1", "seed = 2"),
    )
    result = run("train", "config.toml", check=False)
    told, error = result.stderr.splitlines()
    assert (result.returncode, result.stdout, told) == (1, "", "warning: one")
    assert "the loss became" in error


def test_a_letter_that_the_terminal_does_not_have_is_spelled_out():
    script = """if True:
        import sys
        from eideticnet.__main__ import main
        try:
            main(["--help"])
        except SystemExit:
            print("Vögel", file=sys.stdout)
            print("Vögel", file=sys.stderr)"""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", script]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.endswith("V\\xf6gel\n")
    assert shown.stderr.endswith("V\\xf6gel\n")


def test_a_byte_order_mark_is_no_mistake(project, run):
    (project / "config.toml").write_text(CONFIG.replace("birds.npz", "nowhere.npz"), encoding="utf-8-sig")
    assert "nowhere.npz" in run("train", "config.toml", check=False).error


def test_the_stack_is_shown_to_who_asks_for_it(project, run, monkeypatch):
    (project / "odd.py").write_text(ODD)
    changed(project, ("birds.npz", "odd:raises"))
    assert "EIDETIC_DEBUG=1 shows the stack" in run("train", "config.toml", check=False).error
    monkeypatch.setenv("EIDETIC_DEBUG", "1")
    assert 'return {}["nope"]' in run("train", "config.toml", check=False).stderr


def test_a_dataset_that_fails_while_training_is_blamed_and_what_is_learned_is_kept(project, run):
    (project / "late.py").write_text(
        "import torch\n"
        "class Late(torch.utils.data.Dataset):\n"
        "    reads = 0\n"
        "    def __len__(self):\n        return 60\n"
        "    def __getitem__(self, i):\n"
        "        self.reads += 1\n"
        "        return torch.randn(6), i % 3 if self.reads < 300 else 1 // 0\n"
        "def load():\n    return Late()\n"
    )
    changed(project, ("fish.safetensors", "late:load"))
    error = run("train", "config.toml", check=False).error
    assert "late.py:8: ZeroDivisionError" in error
    assert "runs/mine keeps what is learned (birds), and the same command goes on from there" in error


def test_a_learning_rate_that_diverges_is_one_line(project, run):
    changed(project, ("learning_rate = 0.02", 'learning_rate = 1e30\noptimizer = "sgd"'))
    assert "task 'birds': the loss became" in run("train", "config.toml", check=False).error


def test_numbers_as_classes_are_their_names(project, run):
    changed(project, ('["owl", "wren"]', "[0, 1]"))
    assert validate(Config, {**VALID, "tasks": [{**VALID["tasks"][0], "classes": [0, 1]}]}, "x").tasks[
        0
    ].classes == ("0", "1")


VALID = {
    "name": "a",
    "trunk": {"target": "a:b"},
    "input": {"shape": [6]},
    "tasks": [{"name": "birds", "classes": ["a", "b"], "data": "b.npz"}],
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([*Config.model_fields, "x"]), VALUES)
def test_whatever_stands_in_a_file_is_accepted_or_refused(key, value):
    with suppress(ConfigError):
        validate(Config, {**VALID, key: value}, "config.toml")


PRUNED = {
    "score": "l2",
    "step": 0.1,
    "threshold": 0.01,
    "recovery_epochs": 5,
    "min_width": {"fc1": 2},
    "schedule": "constant",
    "lr_factor": 1.0,
    "budget": 1.0,
}
IMAGE = {"size": [2, 3], "mode": "RGB", "resize": "bilinear", "layout": "flat", "scale": 255.0}
STORED = {
    "name": "n",
    "trunk": {"target": "a:b", "arguments": {}},
    "input": {
        "shape": [18],
        "dtype": "float32",
        "low": 0.0,
        "high": 255.0,
        "mean": [0.5],
        "std": [2.0],
        "image": IMAGE,
    },
    "tasks": [
        {
            "name": "t",
            "classes": ["a", "b"],
            "data": "d.npz",
            "arguments": {},
            "test": None,
            "test_arguments": {},
            "augment": None,
            "augment_arguments": {},
            "reads": None,
            "pretrained": None,
            "pretrained_arguments": {},
        }
    ],
    "seed": 0,
    "device": "cpu",
    "threads": None,
    "test": 0.25,
    "validation": 0.0,
    "memory": 0,
    "moments": 0,
    "moments_of": "input",
    "router_data": "all",
    "probes": "synthetic",
    "when_full": "refuse",
    "planned_tasks": None,
    "label_space": "separate",
    "router_pruning": PRUNED,
    "training": {
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "weight_decay": 0.0,
        "momentum": 0.9,
        "batch_size": 64,
        "patience": 5,
        "settle_patience": 20,
        "max_epochs": 200,
        "label_smoothing": 0.0,
        "lr_schedule": "constant",
    },
    "pruning": PRUNED,
    "routing": {
        "router": "auto",
        "decision": "joint",
        "width": "trunk",
        "false_rejections": 0.0,
        "shrinkage": 0.01,
        "features": None,
        "pruned": True,
    },
}


LATER = {"augment", "augment_arguments", "moments_of", "router_data", "lr_schedule", "shrinkage", "features"}
LATER |= {"label_space", "pretrained_arguments"}


def _without(value, keys):
    if isinstance(value, list):
        return [_without(each, keys) for each in value]
    return (
        {k: _without(v, keys) for k, v in value.items() if k not in keys}
        if isinstance(value, dict)
        else value
    )


def test_the_configuration_of_a_run_is_stored_and_read_as_ever():
    """A run that earlier releases began goes on: nothing that it is made of has changed."""
    found = validate(Config, STORED, "stored")
    assert found.model_dump(mode="json") == STORED
    assert (
        validate(Config, _without(STORED, LATER), "earlier") == found
    )  # keys came later, and changed nothing
    assert found.made_of(1) == {k: v for k, v in STORED.items() if k not in CHANGEABLE or k == "tasks"}
    assert found.routing.build(found.router_pruning).pruning == Pruning(min_width={"fc1": 2}) == found.pruning


def test_a_table_has_the_keys_and_defaults_of_the_class_that_it_makes():
    found = validate(Config, VALID, "least")
    assert found.routing.build(None) == Routing()
    assert (found.pruning, found.input) == (Pruning(), Inputs((6,)))
    made = found.training.build()
    assert replace(made, optimizer=Training().optimizer) == Training()


TABLES = {name: keys_of(Config)[name] for name in ("input", "training", "pruning", "routing")}


@given(st.sampled_from([(name, key) for name, kind in TABLES.items() for key in keys_of(kind)]), VALUES)
def test_whatever_stands_in_a_table_is_accepted_or_refused(place, value):
    name, key = place
    with suppress(ConfigError):
        validate(Config, {**VALID, name: {**VALID.get(name, {}), key: value}}, "config.toml")


def test_a_key_of_two_lines_is_refused_in_one(project, run):
    changed(project, ("seed = 1", '"a\\nb" = 1'))
    assert "a b = 1: there is no such key" in run("train", "config.toml", check=False).error


# -- code beside the file that names it ------------------------------------------------------------


def test_code_is_found_beside_the_file_wherever_the_command_runs(project, run, monkeypatch, tmp_path_factory):
    (project / "data.py").write_text(
        "import numpy as np\ndef load(file):\n    f = np.load(file)\n    return f['x'], f['y']\n"
    )
    arguments = f'"data:load"\narguments = {{ file = "{project}/birds.npz" }}'
    changed(project, ('"birds.npz"', arguments))
    (project / "more.toml").write_text(TASKS)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    run("train", f"{project}/config.toml", "--out", "run")
    monkeypatch.chdir(project.parent)
    run("add-task", f"{elsewhere}/run", f"{project}/more.toml")
    run("report", f"{elsewhere}/run")
    assert "is complete" in run("train", f"{project}/config.toml", "--out", f"{elsewhere}/run").stdout
    assert str(project) not in sys.path[:1]


def test_code_may_be_a_package_with_modules_of_its_own(project, run):
    (project / "own_zoo/parts").mkdir(parents=True)
    (project / "own_zoo/__init__.py").touch()
    (project / "own_zoo/parts/sizes.py").write_text("FACTOR = 2\n")
    (project / "own_zoo/wide.py").write_text(
        "from torch import nn\nfrom .parts.sizes import FACTOR\nfrom my_trunk import build as plain\n"
        "def build(width):\n    return plain(FACTOR * width)\n"
    )
    changed(project, ("my_trunk:build", "own_zoo.wide:build"))
    run("train", "config.toml")
    assert set(EideticNetwork.load(project / "runs/mine").program.groups.values()) == {48}


def test_two_runs_in_one_process_have_code_of_their_own(project, run):
    for name, width in (("a", 8), ("b", 12)):
        folder = project / name
        folder.mkdir()
        (folder / "sizes.py").write_text(f"WIDTH = {width}\n")
        (folder / "my_trunk.py").write_text(
            "from torch import nn\nfrom sizes import WIDTH\n"
            "def build(width):\n    return nn.Sequential(nn.Linear(6, WIDTH), nn.ReLU())\n"
        )
        (folder / "config.toml").write_text(CONFIG.replace('data = "', f'data = "{project}/'))
        run("train", f"{name}/config.toml", "--out", f"{name}/run")
        assert EideticNetwork.load(folder / "run").program.groups == {"0": width}


def test_a_project_that_was_moved_goes_on(project, run, monkeypatch):
    run("train", "config.toml")
    moved = project.with_name(f"{project.name}-moved")
    project.rename(moved)
    monkeypatch.chdir(moved)
    assert "is complete" in run("train", "config.toml").stdout
    run("add-task", "runs/mine", "more.toml")


# -- a run that is begun ---------------------------------------------------------------------------


def test_a_begun_run_names_the_keys_that_differ_and_is_not_touched(project, run):
    run("train", "config.toml")
    before = (project / "runs/mine/network.json").read_bytes()
    changed(project, ("threshold = 0.3", "threshold = 0.25"), ("width = 24", "width = 20"))
    error = run("train", "config.toml", check=False).error
    assert "[pruning] threshold was 0.3 and is 0.25" in error
    assert "[trunk] arguments.width was 24 and is 20" in error
    changed(project, ('"eel"', '"ele"'))
    assert (
        "[[tasks]] 'fish' classes was ['cod', 'eel', 'ray'] and is"
        in run("train", "config.toml", check=False).error
    )
    assert (project / "runs/mine/network.json").read_bytes() == before


def test_a_task_that_is_added_to_the_file_is_learned_and_another_router_is_fitted(project, run):
    run("train", "config.toml")
    (project / "config.toml").write_text(
        'threads = 1\n[routing]\nrouter = "linear"\n'
        + CONFIG.replace('name = "mine"\nseed = 1\n', "")
        + TASKS
    )
    text = (project / "config.toml").read_text()
    (project / "config.toml").write_text('name = "mine"\nseed = 1\n' + text)
    output = run("train", "config.toml").stdout
    assert "frogs: " in output
    assert "(linear)" in output
    net = EideticNetwork.load(project / "runs/mine")
    assert [t.name for t in net.tasks] == ["birds", "fish", "frogs"]


def test_where_there_is_no_room_it_is_said_what_is_kept_and_which_line_to_change(project, run):
    full = ("threshold = 0.3", "threshold = 0.3\nmin_width = 24")
    changed(project, full, (CONFIG[CONFIG.index('[[tasks]]\nname = "fish"') :], ""))
    run("train", "config.toml")
    changed(project, full)
    error = run("train", "config.toml", check=False).error
    for word in (
        "fish: no free neuron in 0, 2",
        'when_full = "widen"',
        "planned_tasks = 2",
        "budget",
        "threshold above 0.3",
        "[trunk]",
    ):
        assert word in error
    assert "runs/mine keeps what is learned (birds), and the same command goes on from there" in error
    changed(project, full, ("seed = 1", 'seed = 1\nwhen_full = "widen"'))
    assert "birds: 24" not in (output := run("train", "config.toml").stdout)
    assert "fish: 12 of 36" in output


def test_a_task_may_be_added_where_all_is_full(project, run):
    changed(project, ("threshold = 0.3", "threshold = 0.3\nmin_width = 12"))
    run("train", "config.toml")
    assert "whole configuration" in run("add-task", "runs/mine", "config.toml", check=False).error
    error = run("add-task", "runs/mine", "more.toml", check=False).error
    assert "frogs: no free neuron" in error
    assert "add-task: --when-full widen" in error
    run("add-task", "runs/mine", "more.toml", "--when-full", "reuse")


# -- what a run tells ------------------------------------------------------------------------------


def test_adding_a_task_shows_what_the_others_routed_accuracy_was_before(project, run):
    assert "routed before" not in run("train", "config.toml").stdout
    before = EideticNetwork.load(project / "runs/mine").metadata["report"]["fish"]["routed"]
    output = run("add-task", "runs/mine", "more.toml").stdout
    (row,) = [line for line in output.splitlines() if line.startswith("│ fish")]
    now = EideticNetwork.load(project / "runs/mine").metadata["report"]["fish"]["routed"]
    assert [cell.strip() for cell in row.split("│")[3:5]] == [f"{now:.1%}", f"{before:.1%}"]


def test_training_that_ended_too_early_is_marked_in_the_table_and_says_which_key_to_change(project, run):
    changed(project, ("max_epochs = 4", "max_epochs = 1"), ("learning_rate = 0.02", "learning_rate = 0.0001"))
    output = run("train", "config.toml").stdout
    (row,) = [line for line in output.splitlines() if line.startswith("│ fish")]
    assert row.endswith("│ ended too early │")
    (line,) = [line for line in output.splitlines() if line.startswith("fish: training accuracy is")]
    assert "raise max_epochs (keys of [training] in the TOML" in line


def test_the_run_writes_the_inputs_that_a_proof_of_its_routing_wants(project, run):
    from eideticnet.contract.bundle import Input
    from eideticnet.export.archive.labeled_inputs import read_inputs

    run("train", "config.toml")
    output = run("held-out", "runs/mine", "real.safetensors").stdout
    assert "fish: 15 held-out inputs, where a proof about its routing wants 200" in output
    real = read_inputs(project / "real.safetensors", Input(shape=[6], dtype="float32"))
    net = EideticNetwork.load(project / "runs/mine")
    assert np.bincount(real.task).tolist() == [16, 15]
    x = torch.from_numpy(real.x)
    for index, task in enumerate(net.tasks):
        mine = torch.from_numpy(real.task == index)
        right = net.task_logits(x[mine], task.name).argmax(1) == torch.from_numpy(real.label)[mine]
        y = torch.from_numpy(real.label)[mine]
        oracle = torch.stack([right[y == c].double().mean() for c in y.unique()]).mean()
        assert float(oracle) == net.metadata["report"][task.name]["oracle"]
    assert "is there already" in run("held-out", "runs/mine", "real.safetensors", check=False).error


def test_data_that_changed_since_it_was_learned_is_told_and_nothing_of_it_passes_for_held_out(project, run):
    run("train", "config.toml")
    with np.load(project / "birds.npz") as file:
        x, y = file["x"], file["y"]
    np.savez(project / "birds.npz", x=np.concatenate([x, x[:9] + 0.125]), y=np.concatenate([y, y[:9]]))
    refused = run("held-out", "runs/mine", "real.safetensors", check=False).error
    assert "the data of 'birds' is not what was learned from" in refused
    assert not (project / "real.safetensors").exists()
    output = run("add-task", "runs/mine", "more.toml").stdout
    assert "warning: the data of task 'birds' is not what it was learned from" in output


@pytest.mark.parametrize("name", menu.ENTRIES)
def test_help_shows_every_word_of_every_command_brackets_too(name):
    command = menu.command(name)
    shown = CliRunner().invoke(menu.app, [name, "--help"]).stdout.split()
    texts = [command.help, *(p.help or "" for p in command.params)]
    assert [word for text in texts for word in text.split() if word not in shown] == []
    assert command.help.partition("\n")[0] == menu.ENTRIES[name].text
