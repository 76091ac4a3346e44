"""Graphs of .pt2 archives, compiled ahead of time for the machine that serves them."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from eidetic_runtime import compiled
from eidetic_runtime.device import Settings
from eidetic_runtime.graph import Graph
from eideticnet.export.archive.reader import read_archive
from eideticnet.export.archive.releases import HANDLERS
from eideticnet.export.archive.writer import write_archive
from eideticnet.serving.deploys.compiling import compiled as compiling
from eideticnet.serving.deploys.compiling import remove_unneeded_graphs
from eideticnet.serving.deploys.deploy import deploy, rollback
from eideticnet.serving.deploys.policy import Policy
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.state import State
from eideticnet.serving.home.store import admit
from eideticnet.serving.supervise.launch import ServerOptions
from eideticnet.serving.supervise.start import prepared, started
from tests.support.archived_networks import archived, normalised
from tests.support.own_ports import with_own_ports
from tests.support.pretended_engine import Pretended
from tests.support.served_process import Served, serving, workers
from tests.support.small_networks import held_out
from tests.support.tolerances import EXPORTED
from tests.support.waiting import PATIENCE


@pytest.fixture(scope="module")
def network():
    return normalised(3)


@pytest.fixture(scope="module")
def archive(network, tmp_path_factory):
    return archived(network, tmp_path_factory.mktemp("compiled") / "net", format="pt2")


@pytest.fixture(scope="module")
def bundle(archive):
    return archive.parent / "bundle"


def in_store(archive, root):
    """A home with the archive in its store, as a server has it before it compiles."""
    home = Home(root)
    home.create()
    version = admit(archive, home.store, allow_torch=True).version
    return home, version, read_archive(home.store / version.file)


@pytest.fixture
def stored(archive, tmp_path):
    return in_store(archive, tmp_path / "home")


def loaded(bundle):
    return Graph(bundle, json.loads((bundle / "bundle.json").read_text()), Settings("cpu"))


def asked(graph, rows=24):
    return graph(held_out(rows).numpy(), np.arange(rows) % 4 - 1, np.linspace(0, 1, rows, dtype=np.float32))


def assert_answers(network, found, rows=24):
    task, threshold = torch.arange(rows) % 4 - 1, torch.linspace(0, 1, rows)
    for name, expected in network(held_out(rows), task, threshold)._asdict().items():
        if expected.dtype == torch.int64:
            assert found[name].tolist() == expected.tolist(), name
        else:
            assert np.allclose(found[name], expected.numpy(), rtol=0, atol=EXPORTED), name


@pytest.fixture(scope="module")
def made(archive, tmp_path_factory):
    """A home in which the archive was compiled, which takes a compiler long: once for all tests."""
    home, version, found = in_store(archive, tmp_path_factory.mktemp("made") / "home")
    assert "was compiled for this machine, in " in compiling(home, version, found)
    return home, version, found


@pytest.mark.slow
def test_a_compiled_graph_answers_like_the_network_and_is_made_once(made, bundle, network, monkeypatch):
    home, version, archive = made
    (file,) = home.compiled.iterdir()
    before = file.stat()
    assert compiling(home, version, archive) == "net 1.0 was compiled for this machine before"
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    monkeypatch.setenv(compiled.FOLDER, str(home.compiled))
    graph = loaded(bundle)
    assert "AOTI" in type(graph._whole._module).__name__
    for rows in (1, 2, 7, 24):
        assert_answers(network, asked(graph, rows), rows)


def test_what_was_compiled_goes_with_the_last_version_that_needs_it(stored, bundle):
    home, version, archive = stored
    name = compiled.compiled_name((bundle / "model.pt2").read_bytes())
    (home.compiled / f"other-1.0.mar.{name}").write_bytes(b"compiled")
    (home.compiled / ".compiling-broken-off").mkdir()
    assert compiling(home, version, archive) == "net 1.0 was compiled for this machine before"
    remove_unneeded_graphs(home, State().replaced("net", version))
    (kept,) = home.compiled.iterdir()
    assert (kept.name, kept.read_bytes()) == (f"{version.file}.{name}", b"compiled")
    remove_unneeded_graphs(home, State())
    assert list(home.compiled.iterdir()) == []


@pytest.mark.slow
def test_a_graph_whose_compiler_is_missing_is_served_as_it_is_and_a_sentence_says_so(stored, monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    home, version, archive = stored
    said = compiling(home, version, archive)
    assert said.startswith("net 1.0 is served as it is, since it could not be compiled: ")
    assert "\n" not in said
    assert list(home.compiled.iterdir()) == []


@pytest.mark.parametrize("what", ["nothing", "nonsense", "of another CPU"])
def test_a_worker_runs_the_graph_as_it_is_where_nothing_fits(
    bundle, network, tmp_path, monkeypatch, caplog, what
):
    monkeypatch.setenv(compiled.FOLDER, str(tmp_path))
    graph = (bundle / "model.pt2").read_bytes()
    if what != "nothing":
        (tmp_path / f"net.mar.{compiled.compiled_name(graph)}").write_bytes(b"no package")
    if what == "of another CPU":
        (tmp_path / "cpuinfo").write_text("flags : fpu\n")
        monkeypatch.setattr(compiled, "_CPUINFO", tmp_path / "cpuinfo")
    with caplog.at_level(logging.WARNING):
        assert_answers(network, asked(loaded(bundle)))
    assert ("the graph runs as it is" in caplog.text) == (what == "nonsense")


def test_what_answers_otherwise_is_not_taken_for_the_graph():
    one = torch.zeros(3, 2)
    compiled._compare("logits", one, one + 1e-6, 1e-5)
    compiled._compare("logits", one + 100, one + 100 + 5e-4, 1e-5)
    for found in (one + 1e-3, one * float("nan")):
        with pytest.raises(ValueError, match="'logits' differs by"):
            compiled._compare("logits", one, found, 1e-5)
    with pytest.raises(ValueError, match="'task' differs by 1"):
        compiled._compare("task", torch.zeros(2, dtype=torch.int64), torch.tensor([0, 1]), 1e-5)


def test_compiling_is_refused_where_pt2_is(tmp_path):
    refused = serving("serve", "--home", tmp_path / "home", "--compile")
    assert (refused.returncode, "--allow-torch lets in: give both" in refused.stderr) == (1, True)


def renumbered(bundle, folder):
    """The archive of the same graph as version 2.0."""
    again = Path(shutil.copytree(bundle, folder / "again"))
    told = json.loads((again / "bundle.json").read_text())
    (again / "bundle.json").write_text(json.dumps(told | {"model_version": "2.0"}))
    write_archive(again, HANDLERS, folder / "net-2.0.mar")
    return folder / "net-2.0.mar"


def test_a_start_a_deploy_and_a_rollback_each_compile_before_they_load(stored, bundle, tmp_path):
    """On an engine that is a dictionary, with a graph that was compiled before."""
    home, version, _ = stored
    with_own_ports(home.root)
    name = compiled.compiled_name((bundle / "model.pt2").read_bytes())
    (home.compiled / f"{version.file}.{name}").write_bytes(b"compiled")
    State().replaced("net", version).write(home.state)
    options = ServerOptions(Pretended(), allow_torch=True, compile=True, startup_seconds=PATIENCE)
    policy = Policy(accept_unmeasured_routing=True, tolerate_not_comparable=True)
    with prepared(home, [], options) as notes, started(home, options) as supervisor:
        assert notes == ["net 1.0 was compiled for this machine before"]
        for steps in (
            deploy(supervisor.server, renumbered(bundle, tmp_path), policy),
            rollback(supervisor.server),
        ):
            taken = [(step.name, step.text) for step in steps]
            names = [step for step, _ in taken]
            assert names.index("compile") < names.index("register")
            assert dict(taken)["compile"].endswith(" was compiled for this machine before")
        assert len(list(home.compiled.iterdir())) == 2


@pytest.mark.slow
def test_a_server_serves_what_was_compiled_and_so_does_a_deploy(made, stored, bundle, network, tmp_path):
    """Where it has been compiled before, since a busy machine may take minutes."""
    home, version, _ = stored
    (file,) = made[0].compiled.iterdir()
    (home.compiled / file.name).hardlink_to(file)
    State().replaced("net", version).write(home.state)
    with Served(home.root, "--allow-torch", "--compile") as served:
        row = held_out(1)
        answer = served.predict({"data": row[0].tolist()}).json()
        expected = network(row)
        assert answer["task"] == network.names(expected)[0].task
        assert abs(answer["task_probability"] - float(expected.task_probs.max())) < EXPORTED
        mapped = [m.path for worker in workers(served.running["frontend"]) for m in worker.memory_maps()]
        assert any(path.endswith(".wrapper.so") for path in mapped)  # AOTInductor's library
        accepted = "--tolerate-not-comparable", "--accept-unmeasured-routing"
        deployed = served.command("deploy", renumbered(bundle, tmp_path), *accepted)
        assert deployed.returncode == 0, deployed.stderr
        assert "net 2.0 was compiled for this machine before" in deployed.stderr
        assert len(list(home.compiled.iterdir())) == 2  # one is what a rollback takes
        assert "net 1.0 was compiled for this machine before" in served.command("rollback").stderr
