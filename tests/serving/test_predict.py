"""``eidetic predict`` asks a real server about files, and shows what it answers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eideticnet.export.archive.reader import read_archive
from eideticnet.export.archive.writer import write_archive
from eideticnet.export.bundle.writer import write_bundle
from tests.support import pictures
from tests.support.eidetic_command import EIDETIC
from tests.support.own_ports import with_own_ports
from tests.support.served_process import changed

ROOT = Path(__file__).parents[2]
PREDICT = f"{EIDETIC} predict"
SCRIPT = """
# One process, because importing what the command line knows takes seconds.
import os, shlex
from pathlib import Path
from typer.testing import CliRunner
from eideticnet.menu import app

for name, command in {commands!r}.items():
    result = CliRunner().invoke(app, shlex.split(os.path.expandvars(command))[1:])
    for kind, text in (("rc", result.exit_code), ("out", result.stdout), ("err", result.exception or "")):
        Path({folder!r}, name + "." + kind).write_text(str(text))
"""


@pytest.fixture(scope="module")
def told(store, tmp_path_factory):
    """What a few commands wrote, by name: (exit status, standard output, standard error)."""
    folder = tmp_path_factory.mktemp("predict")
    digits = read_archive(store / "digits-onnx-3.0.mar")
    x = digits.probes[digits.tasks[1].owner][:3]
    np.save(folder / "x.npy", x)
    np.savez(folder / "x.npz", x=x, y=[0, 1, 2])
    np.savez(folder / "y.npz", y=x, z=x)
    (folder / "x.raw").write_bytes(x.tobytes())
    (folder / "x.json").write_text(json.dumps({"instances": x.tolist(), "top_k": 2}))
    (folder / "red.png").write_bytes(pictures.picture("red", 1))
    (folder / "red.jpeg").write_bytes(pictures.picture("red", 1, kind="JPEG"))
    (folder / "bundle").mkdir()
    write_bundle(pictures.network(folder / "files"), folder / "bundle", name="pictures", model_version="1.0")
    write_archive(folder / "bundle", ROOT / "handlers", folder / "pictures-1.0.mar")
    home = f"--home {folder / 'home'}"
    digits_there = f"{home} --name digits-onnx"
    commands = {
        "table": f"{PREDICT} {folder / 'x.npy'} {digits_there}",
        "npy": f"{PREDICT} {folder / 'x.npy'} {digits_there} --json",
        "npz": f"{PREDICT} {folder / 'x.npz'} {digits_there} --json",
        "no array": f"{PREDICT} {folder / 'y.npz'} {digits_there}",
        "raw": f"{PREDICT} {folder / 'x.raw'} {digits_there} --json",
        "json": f"{PREDICT} {folder / 'x.json'} {digits_there} --json",
        "pinned": f"{PREDICT} {folder / 'x.npy'} {digits_there} --json --task '4 or 5' --top-k 1",
        "png": f"{PREDICT} {folder / 'red.png'} {home} --model pictures --json",
        "jpeg": f"{PREDICT} {folder / 'red.jpeg'} {home} --model pictures --json",
        "wrong": f"{PREDICT} {folder / 'x.npy'} {digits_there} --task nothing",
        "which": f"{PREDICT} {folder / 'x.npy'} {home}",
        "url": f'{PREDICT} {folder / "x.npy"} --url "$EIDETIC_URL" --name digits-onnx --json',
    }
    script = folder / "commands.py"
    script.write_text(SCRIPT.format(commands=commands, folder=str(folder)))
    start = [*changed(), "serve", str(digits.path), str(folder / "pictures-1.0.mar")]
    command = [*start, "--home", str(with_own_ports(folder / "home")), "--run", f"{sys.executable} {script}"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
    read = {n: [(folder / f"{n}.{e}").read_text() for e in ("rc", "out", "err")] for n in commands}
    return {name: (int(rc), out, err) for name, (rc, out, err) in read.items()}


def rows(told, name):
    status, out, err = told[name]
    assert status == 0, err
    return [json.loads(line) for line in out.splitlines()]


def test_a_table_has_a_row_for_each_instance(told):
    status, out, _ = told["table"]
    assert status == 0
    answers = rows(told, "npy")
    assert len(answers) == 3
    for answer in answers:
        assert any(answer["task"] in line and f" {answer['label']} " in line for line in out.splitlines())


def test_every_format_gets_the_same_answers(told):
    expected = rows(told, "npy")
    assert rows(told, "raw") == rows(told, "npz") == rows(told, "url") == expected
    for answer, other in zip(expected, rows(told, "json"), strict=True):
        assert len(other.pop("top")) == 2
        assert other == answer


def test_pictures_are_sent_as_files(told):
    for name in ("png", "jpeg"):
        (answer,) = rows(told, name)
        assert answer["task"] in pictures.TASKS


def test_options_are_passed_on(told):
    answers = rows(told, "pinned")
    assert {answer["task"] for answer in answers} == {"4 or 5"}
    assert all(answer["pinned"] and answer["top"][0]["label"] == answer["label"] for answer in answers)


def test_what_is_wrong_is_named(told):
    for name, words in (
        ("wrong", "no task 'nothing'"),
        ("which", "served here: digits-onnx, pictures"),
        ("no array", "the .npz file holds y, z; expected an array called x"),
    ):
        status, out, err = told[name]
        assert (status, out) == (1, "")
        assert words in err
