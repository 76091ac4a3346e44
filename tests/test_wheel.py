"""The wheel is the whole project: its files, what its parts need, a user's road from a file to a server."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest

from eideticnet import __version__
from eideticnet.menu import ENTRIES
from tests.support.clone import FOLDERS, PROJECT, ROOT, tracked
from tests.support.own_ports import with_own_ports
from tests.support.served_process import changed
from tests.support.waiting import until


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone in a folder that has the package's name. (Builds leave files that the next one takes up.)"""
    folder = tmp_path_factory.mktemp("beside") / "eideticnet"
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def built(what, clone, folder):
    code = f"import setuptools.build_meta as s; s.build_{what}({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=clone, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(clone, tmp_path_factory):
    return built("wheel", clone, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    """The programs of a new environment: our wheel, and the libraries of this one."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))  # whose own .pth files are not read
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", folder / "bin/python"]
    subprocess.run([*pip, "install", "-q", "--no-index", "--no-deps", "--no-compile", wheel], check=True)
    return folder / "bin"


def test_the_wheel_holds_every_part_and_nothing_else(wheel):
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    expected = set()
    for package, folder in FOLDERS.items():
        inside = [name for name in tracked() if name.startswith(f"{folder}/")]
        expected |= {name.replace(folder, package.replace(".", "/"), 1) for name in inside}
    inner = ("eideticnet/serving/client/", "eideticnet/handlers/eidetic_runtime/")
    expected = {n for n in expected if not n.startswith(inner)}
    assert names == expected
    assert "eideticnet/py.typed" in names


def test_a_script_beside_a_clone_finds_the_package_and_not_the_folder_of_the_clone(clone, tmp_path):
    zipfile.ZipFile(built("editable", clone, tmp_path)).extractall(tmp_path / "site")
    script = clone.with_name("script.py")
    script.write_text(
        f"import site; site.addsitedir({str(tmp_path / 'site')!r})\n"
        "from importlib.util import find_spec\n"
        "print(find_spec('eideticnet').origin, find_spec('eideticnet.client').origin)"
    )
    found = subprocess.run([sys.executable, "-S", script], capture_output=True, text=True, check=True)
    assert found.stdout == f"{clone}/eideticnet/__init__.py {clone}/serving/client/__init__.py\n"


FORKING = """
import os, sys
import torch._dynamo, eideticnet.runs.commands, eideticnet.export.build
from eideticnet.__main__ import main
for line in sys.stdin:
    if not os.fork():
        os.dup2(2, 1)
        main(line.split()[1:])
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""
LEARNING = ("train", "report", "held-out", "export", "add-task")


@pytest.fixture
def learn(programs, tmp_path):
    """Runs commands of the environment that need torch, forked from a process that imports it once: a tenth
    of all that this file costs goes into each further one."""
    log, pipe = tmp_path.with_suffix(".log"), subprocess.PIPE
    command = [programs / "python", "-c", FORKING]
    with (
        log.open("w") as output,
        subprocess.Popen(command, cwd=tmp_path, stdin=pipe, stdout=pipe, stderr=output, text=True) as process,
    ):

        def run(command):
            print(command, file=process.stdin, flush=True)
            assert process.stdout.readline() == "0\n", log.read_text()

        yield run


def test_the_tutorials_commands_go_from_a_configuration_to_a_deploy_and_back(programs, learn, tmp_path):
    shutil.copytree(ROOT / "examples/animals", tmp_path, dirs_exist_ok=True)
    config = tmp_path / "animals.toml"  # half of what training takes is to prune in small steps
    config.write_text(config.read_text().replace("step = 0.1 ", "step = 0.5 "))
    subprocess.run([sys.executable, tmp_path / "make_data.py"], check=True)
    tutorial = (ROOT / "docs/tutorial.md").read_text()
    commands = re.findall(r"^(eidetic \S+.*?)(?: {2,}#.*)?$", tutorial, re.MULTILINE)
    serve = next(command for command in commands if command.startswith("eidetic serve "))
    before, after = commands[: commands.index(serve)], commands[commands.index(serve) + 1 :]
    assert [command.split()[1] for command in after][-2:] == ["rollback", "stop"]

    def run(command, status=0):
        if command.split()[1] in LEARNING:
            return learn(command)
        command = f"{programs}/{command}" if command.startswith("eidetic") else command
        done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    with_own_ports(tmp_path / "server_home")
    for command in before:
        run(command)
    log = tmp_path / "log"
    with log.open("w") as output:
        command = [programs / "python", *changed()[1:], *serve.split()[1:]]
        server = subprocess.Popen(command, cwd=tmp_path, stdout=output, stderr=output)
    try:
        until(lambda: "Ctrl-C stops everything" in log.read_text() or server.poll() is not None)
        (curl,) = re.findall(r"^curl .*", log.read_text(), re.MULTILINE)
        assert "curl -sS -H @server_home/authorization.txt" in tutorial
        assert curl.startswith(f"curl -sS -H @{tmp_path}/server_home/authorization.txt -H 'Content-Type: ")
        versions = [json.loads(run(curl))["model_version"]]
        for command in after:
            run(command)
            if command.split()[1] in ("deploy", "rollback"):
                versions.append(json.loads(run(curl))["model_version"])
        assert versions == ["2.0", "3.0", "2.0"]
        assert server.wait() == 0, log.read_text()
    finally:
        server.kill()
        server.wait()
    run("eidetic status", status=3)


def needed(names, found):
    """Add to ``found`` the distributions that some bring, themselves included."""
    for name in {plain(re.split(r"[^\w.-]", need)[0]) for need in names if "extra ==" not in need} - found:
        with suppress(PackageNotFoundError):  # where a marker says that it isn't needed here
            needs = requires(name)
            found.add(name)
            needed(needs or [], found)


def plain(name):
    return name.lower().replace("_", "-")


WITHOUT = """
import sys
class Without:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Without)
from eideticnet.__main__ import main
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Runs code with the libraries that the package brings without any extra."""
    kept = set()
    needed(PROJECT["project"]["dependencies"], kept)
    missing = {
        module
        for module, brought in packages_distributions().items()
        if not {plain(name) for name in brought} & {*kept, "eideticnet"}
    }
    assert {"torch", "ts", "onnx", "onnxruntime", "yaml", "safetensors"} <= missing

    def run(code):
        command = [sys.executable, "-c", WITHOUT.format(missing=missing) + code]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def test_what_a_client_needs_is_all_that_comes_without_an_extra(bare):
    names = "AsyncClient, AsyncGrpcClient, Client, GrpcClient, OpenInference"
    done = bare(f"from eideticnet.client import {names}; main(['predict', '--help'])")
    assert done.returncode == 0, done.stderr
    assert "Show what a running server answers" in done.stdout
    shown = bare("main(['--help'])").stdout
    assert [name for name in ENTRIES if f"  {name} " not in shown] == []
    assert bare("main(['--version'])").stdout == f"eidetic {__version__}\n"


def test_a_shell_completes_commands_without_what_they_need_and_their_options_with_it(bare):
    def completed(words, word):
        asked = {"_EIDETIC_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": word}
        return bare(f"import os; os.environ |= {asked}; main()").stdout.split()

    assert completed("eidetic s", "1") == ["sign", "serve", "status", "stop"]
    assert {"--home", "--threshold"} <= set(completed("eidetic predict --", "2"))


def test_a_command_that_is_not_there_is_told_with_the_one_that_is_meant(bare):
    done = bare("main(['trian'])")
    assert done.returncode == 2
    assert "Did you mean 'train'?" in done.stderr


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("train x.toml", "pip install 'eideticnet[train]'"),
        ("export runs/x", "pip install 'eideticnet[train,export,cpu]'"),
        ("serve x.mar", "pip install 'eideticnet[serve,cpu]'"),
    ],
)
def test_a_command_names_the_extra_that_it_needs(bare, command, said):
    done = bare(f"main({command.split()!r})")
    name = command.split()[0]
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"error: eidetic {name} needs \w+: {re.escape(said)}\n", done.stderr)
