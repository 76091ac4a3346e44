"""The Dockerfile's steps, run one after the other in folders of their own, since tests have no daemon."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.support.clone import ROOT, tracked

INSTEAD = {"useradd": 'mkdir -p "$ROOT/home/$2"', "apt-get": "true"}
"""What is run in the place of the steps that would change this machine."""


class Stage:
    """A root folder in which instructions are run, with a Python that has this environment's libraries."""

    def __init__(self, root):
        self.root, self.folder = root, root
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / "venv"], check=True)
        site = Path(sysconfig.get_path("purelib", vars={"base": str(root / "venv")}))
        (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
        for name, command in INSTEAD.items():
            (root / "venv/bin" / name).write_text(f"#!/bin/sh\n{command}\n")
            (root / "venv/bin" / name).chmod(0o755)

    def path(self, name):
        return self.root / name.lstrip("/") if name.startswith("/") else self.folder / name

    def workdir(self, name):
        self.folder = self.path(name)
        self.folder.mkdir(parents=True, exist_ok=True)

    def run(self, command):
        own = {
            "PATH": f"{self.root}/venv/bin:{os.environ['PATH']}",
            "ROOT": str(self.root),
            "PIP_NO_INDEX": "1",
        }
        done = subprocess.run(
            command, cwd=self.folder, env={**os.environ, **own}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def shell(self, text):
        return self.run(["sh", "-c", re.sub(r"(?<![\w.*])/(wheel|tmp|home)", rf"{self.root}/\1", text)])


def instructions():
    lines = (line for line in (ROOT / "Dockerfile").read_text().splitlines() if line and line[0] != "#")
    return [line.split(maxsplit=1) for line in lines]


def copied(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    (shutil.copytree if source.is_dir() else shutil.copy)(source, target)


def test_its_steps_end_in_a_command_that_can_serve(tmp_path):
    stages, entry = {}, []
    for word, rest in instructions():
        if word == "FROM":
            stage = stages[rest.partition(" AS ")[2]] = Stage(tmp_path / f"stage{len(stages)}")
        elif word == "WORKDIR":
            stage.workdir(rest)
        elif word == "COPY" and rest == ". .":
            for name in tracked():
                copied(ROOT / name, stage.folder / name)
        elif word == "COPY":
            *options, source, target = rest.split()
            begin = stages[options[0].partition("=")[2]].path(source) if options else ROOT / source
            copied(begin, stage.path(target))
        elif word == "RUN":
            stage.shell(rest)
        elif word in ("ENTRYPOINT", "CMD"):
            entry += json.loads(rest)
        else:
            assert word in ("USER", "VOLUME", "EXPOSE")
    assert entry == ["eidetic", "serve", "--help"]
    assert "Serve" in stage.run([f"{stage.root}/venv/bin/eidetic", *entry[1:]])
    assert (stage.folder / "server_home").is_dir()
