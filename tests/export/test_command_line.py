"""What the command line leaves behind and says by its exit status, also when it is told nonsense."""

import io
import json
import shutil
import signal
import subprocess
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from eideticnet.__main__ import main
from eideticnet.export.archive.reader import read_archive
from eideticnet.export.proof.retention import changed_contract
from eideticnet.menu import app
from eideticnet.runs.history import History, read
from eideticnet.serving.show import task_table
from tests.support.archived_networks import archived, grown, normalised
from tests.support.eidetic_command import EIDETIC, interrupted
from tests.support.forked import eidetic
from tests.support.small_networks import LIGHT, QUICK, task_loader

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Two tasks; a third one added."""
    folder, (old, new, _) = tmp_path_factory.mktemp("versions"), grown()
    return archived(old, folder / "old", "1.0"), archived(new, folder / "new", "2.0")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "net"
    normalised(2).save(folder)
    return folder


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def inside(*arguments):
    """The command with its errors, in this process: another imports for seconds what exports."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            main([str(argument) for argument in arguments])
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def module(*arguments):
    """The command in a process of its own."""
    command = [EIDETIC, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("new", "against", "status"), [(1, 0, 0), (0, 1, 1)])
def test_the_command_says_the_verdict_by_its_exit_status_and_in_json(
    versions, tmp_path, new, against, status
):
    kept = tmp_path / "report.json"
    result = invoke("verify", versions[new], "--against", versions[against], "--report", kept)
    assert result.exit_code == status
    report = json.loads(result.stdout)
    assert report == json.loads(kept.read_text())
    assert report["verdict"] == ["proven", "refused"][status]
    assert {"reasons", "tasks", "routing", "old", "new", "run"} < set(report)
    assert list(tmp_path.iterdir()) == [kept]


@pytest.mark.parametrize("which", [0, 1])
def test_a_broken_archive_is_refused_with_a_report(versions, tmp_path, which):
    pair, kept = list(versions), tmp_path / "report.json"
    pair[which] = tmp_path / "cut.mar"
    pair[which].write_bytes(versions[which].read_bytes()[:-100])
    result = invoke("verify", pair[1], "--against", pair[0], "--report", kept)
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report == json.loads(kept.read_text())
    assert report["verdict"] == "refused"
    (reason,) = report["reasons"]
    assert reason.startswith(f"{tmp_path / 'cut.mar'}: ")


def test_what_is_no_verdict_has_a_status_of_its_own_and_a_line_that_says_why(versions, tmp_path, monkeypatch):
    old, new = versions
    monkeypatch.setenv("COLUMNS", "200")
    np.savez(tmp_path / "real.npz", x=np.zeros((3, 5), np.float32))
    good = ["verify", new, "--against", old]
    for arguments, words in (
        (["verify", tmp_path / "none.mar", "--against", old], "none.mar"),
        (["verify", new, "--against", tmp_path / "none.mar"], "none.mar"),
        ([*good, "--routing-data", tmp_path / "none.npz"], "can't read routing data"),
        ([*good, "--routing-data", tmp_path / "real.npz"], "x of shape [3, 5]"),
        ([*good, "--report", tmp_path / "no" / "report.json"], "can't write"),
        ([*good, "--report", "/dev/null"], "no ordinary file"),
    ):
        result = inside(*arguments)
        assert (result.returncode, "Traceback" in result.stderr) == (2, False), arguments
        assert words in result.stderr.splitlines()[-1] or words in result.stderr.splitlines()[-2]
    assert not Path("/dev/null").is_file()


def test_a_verdict_whose_report_can_not_be_kept_is_printed_all_the_same(versions, tmp_path):
    result = invoke("verify", versions[1], "--against", versions[0], "--report", tmp_path)
    assert result.exit_code == 2
    assert json.loads(result.stdout)["verdict"] == "proven"


@pytest.mark.parametrize("module", ["typer", "onnx", "torch", "eideticnet.checkpoint"])
def test_an_interrupt_while_modules_are_imported_shows_no_traceback(tmp_path, module):
    result = interrupted(module, "export", str(tmp_path))
    assert result.returncode in (-signal.SIGINT, 130)
    assert "Traceback" not in result.stderr


def test_an_interrupted_command_says_so_and_ends_with_130(versions):
    old, new = map(str, versions)
    result = interrupted(old, "verify", new, "--against", old)
    assert result.returncode == 130
    assert result.stderr == "interrupted: no file was left half-written\n"


@pytest.mark.parametrize("which", [0, 1])
def test_no_command_replaces_a_file_that_it_reads(versions, tmp_path, which):
    paths = [tmp_path / path.name for path in versions]
    for source, path in zip(versions, paths, strict=True):
        path.write_bytes(source.read_bytes())
    link = tmp_path / "link.mar"
    link.symlink_to(paths[which])
    for out in (paths[which], link):
        for command in (["verify", "--report"], ["delta", "--out"]):
            result = inside(command[0], paths[1], "--against", paths[0], command[1], out)
            assert result.returncode
            assert "is needed: name another" in result.stderr
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in versions]


def test_apply_does_not_replace_the_archive_that_it_starts_from(versions, tmp_path):
    """The new archive has the old one's name and version, and so its place in the store."""
    old, _ = versions
    stored, new = tmp_path / old.name, archived(grown()[1], tmp_path / "new", "1.0")
    stored.write_bytes(old.read_bytes())
    assert module("delta", new, "--against", stored, "--out", tmp_path / "net.delta").returncode == 0
    result = module("apply", stored, tmp_path / "net.delta", "--store", tmp_path)
    assert result.returncode == 1
    assert "is needed" in result.stderr
    assert stored.read_bytes() == old.read_bytes()


def test_a_bundle_is_kept_with_the_rights_of_any_other_new_folder(run_folder, tmp_path):
    store, kept, other = tmp_path / "store", tmp_path / "a" / "bundle", tmp_path / "other"
    result = inside("export", run_folder, "--store", store, "--bundle", kept, "--prefix", 1)
    assert result.returncode == 0, result.stderr
    other.mkdir()
    assert kept.stat().st_mode == other.stat().st_mode
    assert (kept / "prefix").stat().st_mode == other.stat().st_mode
    archive = read_archive(store / "net-2.0.mar")
    assert {p.relative_to(kept).as_posix() for p in kept.rglob("*") if p.is_file()} == {
        *archive.bundle.files,
        "bundle.json",
    }


def test_a_build_that_fails_leaves_neither_bundle_nor_archive(run_folder, tmp_path):
    real = tmp_path / "real.npz"
    real.write_bytes(b"PK\3\4 no such file")
    store, kept = tmp_path / "store", tmp_path / "bundle"
    result = inside("export", run_folder, "--store", store, "--bundle", kept, "--validation", real)
    assert result.returncode == 1
    assert f"error: can't read validation data {real}" in result.stderr
    assert list(tmp_path.iterdir()) == [real]
    store.write_text("no folder")
    result = inside("export", run_folder, "--store", store, "--bundle", kept)
    assert result.returncode == 1
    assert sorted(tmp_path.iterdir()) == [real, store]


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--layout", "dens", "'--layout': 'dens' is not one of 'nested'"),
        ("--threads", "a", "'--threads': is 'a': it should be a valid integer"),
    ],
)
def test_an_option_with_another_value_is_told_in_words(option, value, words):
    assert f"Invalid value for {words}" in inside("export", "run", option, value).stderr


def test_a_folder_whose_name_will_not_do_for_a_model_is_told_of_the_option(run_folder, tmp_path):
    folder = Path(shutil.copytree(run_folder, tmp_path / "my run"))
    result = inside("export", folder, "--store", tmp_path / "store")
    assert result.returncode == 1
    assert "the name 'my run' can't be part of a URL: give --name" in result.stderr
    result = inside("export", run_folder, "--store", tmp_path / "store", "--model-version", "1/2")
    assert "the model version '1/2' can't be part of a URL: give --model-version" in result.stderr
    assert not (tmp_path / "store").exists()


def test_two_builds_of_one_archive_at_once_both_end_well(run_folder, tmp_path):
    begun = [eidetic("export", run_folder, "--store", tmp_path) for _ in "ab"]
    both = [process.end() for process in begun]
    assert [(p.returncode, p.stderr) for p in both] == [(0, "")] * 2
    assert [p.name for p in tmp_path.iterdir()] == ["net-2.0.mar"]
    read_archive(tmp_path / "net-2.0.mar")


def test_an_archive_of_other_content_stays_unless_it_is_to_be_replaced(run_folder, tmp_path):
    store, other = tmp_path / "store", tmp_path / "other" / "net"
    (path,) = invoke("export", run_folder, "--store", store).stdout.splitlines()
    content = Path(path).read_bytes()
    net = normalised(2)
    net.learned = net.learned.with_routing(replace(net.learned.routing, threshold=0.25))
    net.save(other)
    again = invoke("export", run_folder, "--store", store)
    assert (again.exit_code, again.stdout) == (0, f"{path}\n")
    refused = inside("export", other, "--store", store)
    assert refused.returncode == 1
    assert f"{path} is there already, with other content: --replace" in refused.stderr
    assert Path(path).read_bytes() == content
    assert [p.name for p in store.iterdir()] == [Path(path).name]
    assert invoke("export", other, "--store", store, "--replace").exit_code == 0
    assert Path(path).read_bytes() != content


def test_what_training_leaves_in_doubt_is_in_the_bundle_and_in_the_tables(tmp_path):
    net, told = normalised(2), "training accuracy is 0.500; raise patience"
    doubts = {"task 0": told, "router": told}
    net.metadata = {**net.metadata, "history": History(doubts=doubts).model_dump()}
    net.save(tmp_path / "net")
    result = invoke("export", tmp_path / "net", "--store", tmp_path)
    assert result.exit_code == 0, result.output
    assert [f"warning: {name}: {told}" for name in doubts] == result.stderr.splitlines()
    archive = read_archive(Path(result.stdout.strip()))
    assert archive.tasks[0].report.doubt == archive.bundle.routing.doubt == told
    assert archive.tasks[1].report.doubt is None
    console = Console(file=io.StringIO(), width=120)
    console.print(task_table(archive))
    lines = [line for line in console.file.getvalue().splitlines() if "ended too early" in line]
    assert [line.split()[1] for line in lines] == ["task", "router"]
    net.revise_task("task 0", task_loader(0), training=QUICK, pruning=LIGHT)
    assert list(read(net).doubts) == ["router"]


def test_what_no_deploy_would_take_is_said_when_it_is_exported(run_folder, tmp_path):
    first = invoke("export", run_folder, "--store", tmp_path)
    assert (first.exit_code, first.stderr) == (0, "")
    command = "export", run_folder, "--store", tmp_path, "--model-version", "3.0", "--max-instances", 9
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # and no errors, as the command has them
        result = inside(*command)
    assert result.returncode == 0, result.stderr
    assert "no deploy over version 2.0 will take this: " in " ".join(result.stderr.split())
    old, new = (read_archive(tmp_path / f"net-{version}.mar").bundle for version in ("2.0", "3.0"))
    assert list(changed_contract(old, old)) == []
    shared = old.model_copy(update={"classes": ("a", "b")})
    assert "the label space is shared, and was separate" in " ".join(changed_contract(old, shared))
    assert "64" in " ".join(changed_contract(old, new))
