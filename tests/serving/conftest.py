"""Archives of one network that learned one task more for each version; TorchServes that many tests ask."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from onnx import numpy_helper

from eideticnet.client import Client
from eideticnet.export.archive.reader import read_archive
from eideticnet.export.archive.writer import write_archive
from eideticnet.export.bundle.writer import write_bundle
from tests.support import pictures
from tests.support.archived_networks import add_task, archived, edited, normalised
from tests.support.bare_torchserve import started, workers
from tests.support.made_once import once
from tests.support.served_process import Served
from tests.support.small_networks import fit
from tests.support.smallest_archive import FLAT
from tests.support.waiting import PATIENCE

HANDLERS = Path(__file__).parents[2] / "handlers"


@pytest.fixture(scope="session")
def versions(tmp_path_factory):
    """Archives of versions 1.0, 2.0 and 3.0, honest successors of each other."""

    def make(folder):
        net = normalised(1)
        for number in (1, 2, 3):
            if number > 1:
                add_task(net)
                fit(net)
            archived(net, folder / str(number), f"{number}.0")

    folder = once(tmp_path_factory, "versions", make)
    return {f"{number}.0": folder / f"{number}/net-{number}.0.mar" for number in (1, 2, 3)}


@pytest.fixture(scope="session")
def archive(store):
    """The digits as ONNX."""
    return read_archive(store / "digits-onnx-3.0.mar")


@pytest.fixture(scope="session")
def torchscript(store):
    return read_archive(store / "digits-torchscript-3.0.mar")


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
    """A network whose inputs are pictures."""
    folder = tmp_path_factory.mktemp("colours")
    (folder / "bundle").mkdir()
    net = pictures.network(folder / "files")
    write_bundle(net, folder / "bundle", name="colours", model_version="2.0", max_instances=5)
    write_archive(folder / "bundle", HANDLERS, folder / "colours-2.0.mar")
    return read_archive(folder / "colours-2.0.mar")


@pytest.fixture(scope="session")
def another_runtime(tmp_path_factory):
    """A folder for PYTHONPATH by which every Python finds another ``eidetic_runtime`` first, and has imported
    it already. Importing a part of it writes the file ``found``."""
    folder = tmp_path_factory.mktemp("another")
    (folder / "installed/eidetic_runtime").mkdir(parents=True)
    for path in (HANDLERS / "eidetic_runtime").glob("*.py"):
        found = "" if path.stem == "__init__" else f"open({str(folder / 'found')!r}, 'a').write(__name__)\n"
        (folder / "installed/eidetic_runtime" / path.name).write_text(found)
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "class Finder:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name.startswith('eidetic_runtime'):\n"
        f"            there = {str(folder / 'installed')!r}\n"
        "            return PathFinder.find_spec(name, [there + '/eidetic_runtime' * name.count('.')])\n"
        "sys.meta_path.insert(0, Finder)\n"
        "import eidetic_runtime\n"
    )
    return folder


@pytest.fixture(scope="session")
def server(archive, torchscript, colours, another_runtime, tmp_path_factory):
    """A TorchServe of all three, and of an archive whose handler is flat files, on a machine with another
    runtime. Every test leaves it whole."""
    folder = tmp_path_factory.mktemp("served")
    copies = [shutil.copy(each.path, folder) for each in (archive, torchscript, colours)]
    archives = [read_archive(Path(path)) for path in (*copies, shutil.copy(FLAT, folder / "net-1.0.mar"))]
    with started(archives, variables={"PYTHONPATH": str(another_runtime)}) as running:
        yield running


@pytest.fixture(scope="session")
def open_server(archive):
    """One that speaks the Open Inference Protocol, which TorchServe decides when it starts."""
    with started([archive], variables={"TS_OPEN_INFERENCE_PROTOCOL": "oip"}) as running:
        yield running


@pytest.fixture(scope="session")
def ray_server(archive, torchscript, colours, tmp_path_factory):
    """``eidetic serve --engine ray`` of the same three."""
    home, paths = tmp_path_factory.mktemp("on_ray") / "home", [archive.path, torchscript.path, colours.path]
    with Served(home, *paths, "--engine", "ray", "--allow-torch") as running:
        yield running


@pytest.fixture(scope="session", params=["torchserve", pytest.param("ray", marks=pytest.mark.slow)])
def engine(request):
    """Each engine, with the same archives: what is the same for clients of both."""
    if request.param == "torchserve":
        server = request.getfixturevalue("server")
        ports, key = server.ports, server.keys()["inference"]
        return Asked("torchserve", ports.inference_url, ports.grpc_inference, key, lambda: workers(server))
    server = request.getfixturevalue("ray_server")
    port = int(server.running["grpc_inference"].rpartition(":")[2])
    return Asked("ray", server.running["inference"], port, server.keys()["inference"], server.replicas)


@dataclass(frozen=True)
class Asked:
    """A server of some engine, as a client has it; ``workers`` are the processes that answer."""

    name: str
    url: str
    grpc: int
    key: str
    workers: Callable[[], Sequence[psutil.Process]]


@pytest.fixture(scope="session")
def http(server):
    """Plain HTTP with the token."""
    headers = {"Authorization": f"Bearer {server.keys()['inference']}"}
    url = server.ports.inference_url
    with httpx.Client(base_url=url, headers=headers, timeout=PATIENCE, trust_env=False) as client:
        yield client


@pytest.fixture(scope="session")
def client(server):
    with Client(server.ports.inference_url, server.keys()["inference"], timeout=PATIENCE) as client:
        yield client


@pytest.fixture(scope="session")
def x(archive):
    """Probes of all tasks of the digits, (n, 64)."""
    return np.concatenate([archive.probes[task.owner] for task in archive.tasks])


@pytest.fixture(scope="session")
def forgetful(versions, tmp_path_factory):
    """A version 9.0 that claims to be a successor of 1.0 and has another weight in its first task."""
    return edited(
        versions["1.0"],
        tmp_path_factory.mktemp("forgetful") / "net-9.0.mar",
        graph=_other_weight,
        bundle=lambda bundle: bundle.update(model_version="9.0"),
    )


def _other_weight(model):
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 2)
    weight = numpy_helper.to_array(tensor).copy()
    weight[0, 0] += 1
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))


@pytest.fixture(scope="session")
def namesake(versions, tmp_path_factory):
    """Another archive of version 1.0: what is version 2.0 elsewhere."""
    return edited(
        versions["2.0"],
        tmp_path_factory.mktemp("namesake") / "net-1.0.mar",
        bundle=lambda bundle: bundle.update(model_version="1.0"),
    )
