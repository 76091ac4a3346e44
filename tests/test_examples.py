"""The examples run; the tutorial's commands go from a TOML file to a model that learns while it serves."""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from eideticnet import EideticNetwork
from eideticnet.block import together
from tests.support.forked import eidetic, script
from tests.support.own_ports import with_own_ports
from tests.support.served_process import changed
from tests.support.tolerances import EXPORTED

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
TUTORIAL = (ROOT / "docs/tutorial.md").read_text()
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def run(command, folder, **options):
    result = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": PATH},
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_first_example_learns_three_tasks_and_finds_them(tmp_path):
    ended = script(EXAMPLES / "quickstart.py", tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("[Named(task='0 or 1', label='0')")
    assert (tmp_path / "runs/three/network.json").exists()


def test_the_example_of_training_runs(tmp_path):
    ended = script(EXAMPLES / "training.py", tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert EideticNetwork.load(tmp_path / "runs/three").capacity()


@pytest.mark.parametrize("name", ["client.py", "plain_onnx_runtime.py"])
def test_an_example_that_lacks_what_comes_first_says_what_in_a_line(name, tmp_path):
    command = [sys.executable, str(EXAMPLES / name)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "comes first" in done.stderr


def test_configurations_of_experiments_name_code_beside_them_so_they_are_trained_from_any_folder():
    for file in (ROOT / "experiments").glob("*.toml"):
        targets = re.findall(r'"([\w.]+):\w+"', file.read_text())
        assert targets or "\nbase = " in file.read_text()
        assert [
            t for t in targets if not (t.startswith("eideticnet.") or file.with_name(f"{t}.py").exists())
        ] == []


def test_the_client_prints_an_answer_for_each_row(digits_run, tmp_path):
    assert eidetic("export", digits_run, "--name", "digits", cwd=tmp_path).end().returncode == 0
    client = shlex.join([sys.executable, str(EXAMPLES / "client.py")])
    with_own_ports(tmp_path / "server_home")
    output = run([*changed(), "serve", "model_store/digits-3.0.mar", "--run", client], tmp_path)
    answers = [line for line in output.splitlines() if "Choice(" in line]
    assert len(answers) == 5, output
    assert all(line.split(" or ")[0] in "024" for line in answers)


def test_plain_onnx_runtime_gives_the_networks_answers(digits_run, tmp_path):
    page = (ROOT / "docs/export.md").read_text()
    (command,) = re.findall(r"^eidetic export .*--bundle.*$", page, re.MULTILINE)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/digits").symlink_to(digits_run)
    assert eidetic(*shlex.split(command)[1:], cwd=tmp_path).end().returncode == 0
    code = (EXAMPLES / "plain_onnx_runtime.py").read_text()
    code += "\nnp.savez('answers', x=x, task=task, label=label, task_probs=task_probs)"
    run([sys.executable, "-c", code], tmp_path)
    answers = np.load(tmp_path / "answers.npz")
    expected = EideticNetwork.load(digits_run)(torch.from_numpy(answers["x"]))
    assert answers["task"].tolist() == expected.task.tolist()
    assert answers["label"].tolist() == expected.label.tolist()
    assert np.allclose(answers["task_probs"], expected.task_probs, rtol=0, atol=EXPORTED)


ADDED = """
[[tasks]]
name = "dogs"
classes = ["Beagle", "Pug"]
data = "dogs.npz"
"""


@pytest.mark.slow
def test_a_model_of_hugging_face_is_the_first_task_that_later_ones_read(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 32}
    model = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=16, patch_size=8)).eval()
    model.save_pretrained(tmp_path / "tiny")
    source = (EXAMPLES / "pretrained.py").read_text()
    text = textwrap.dedent(
        "\n".join(line for line in source.split('"""')[1].splitlines() if line[:4] == "    ")
    )
    text = text.replace("google/vit-base-patch16-224-in21k", str(tmp_path / "tiny")).replace("224", "16")
    text = text.replace("pictures/cats", "cats.npz").replace("4096", "64")
    (tmp_path / "pets.toml").write_text(f"{text}\n[training]\nmax_epochs = 2\n")
    (tmp_path / "dogs.toml").write_text(ADDED)
    (tmp_path / "pretrained.py").write_text(source)
    rng, x = np.random.default_rng(0), {}
    for place, name in enumerate(("cats", "dogs")):
        x[name] = rng.random((40, 3, 16, 16), np.float32) / 2
        x[name][:, place] += 0.5
        np.savez(tmp_path / f"{name}.npz", x=x[name], y=np.arange(40) % 2)
    for command in (["train", "pets.toml"], ["add-task", "runs/pets", "dogs.toml"]):
        ended = eidetic(*command, cwd=tmp_path).end()
        assert ended.returncode == 0, ended.stdout + ended.stderr
    net, rows = EideticNetwork.load(tmp_path / "runs/pets"), torch.from_numpy(x["cats"])
    assert not any(net.learned.block("t1").own.values()), "it has a head and nothing else"
    assert net.learned.router().reads == ("t0",)
    first = net.learned.block("t0")
    value = first.program.steps[-1].inputs[0]
    features = together([first], net.inputs.normalise(rows), keep=(value,))["t0"][value]
    with torch.no_grad():
        expected = model((rows - 0.5) / 0.5).last_hidden_state[:, 0]
    assert torch.allclose(features, expected, atol=1e-5)
    found = net(torch.cat([rows, torch.from_numpy(x["dogs"])])).task
    assert float((found == torch.arange(2).repeat_interleave(40)).double().mean()) > 0.9
