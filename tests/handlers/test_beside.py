"""A worker runs the runtime that its archive holds, whichever other one its Python would find first."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from eideticnet.export.archive.reader import read_files
from tests.support.example_counts import often
from tests.support.smallest_archive import small_archive

WORKER = """
import json, sys
SURROUNDINGS
import eidetic_handler
from eidetic_runtime import onnx_graph, torch_graph  # which are imported late
print(json.dumps({n: m.__file__ for n, m in sys.modules.items() if n.startswith("eidetic_")}))
"""
SITE_PACKAGES = "sys.path.append(OTHER)"
FIRST_ON_THE_PATH = "sys.path.insert(0, OTHER)"
EDITABLE = """
import site
sys.meta_path[:] = [f for f in sys.meta_path if "Editable" not in repr(f)]
site.addsitedir(SITE)
"""
IMPORTED_BY_A_PTH_FILE = EDITABLE + "import eidetic_runtime.errors, eidetic_runtime.model"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """An archive as TorchServe unpacks it."""
    folder = tmp_path_factory.mktemp("unpacked")
    for name, data in read_files(small_archive(folder / "a.mar"))[1].items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def other(unpacked, tmp_path_factory):
    """Another runtime that is installed: the same modules, each of which can be imported, and an editable
    install of it as setuptools makes it for this project."""
    folder = tmp_path_factory.mktemp("other")
    project = folder / "project"
    for path in (unpacked / "eidetic_runtime").glob("*.py"):
        (project / "handlers/eidetic_runtime").mkdir(parents=True, exist_ok=True)
        (project / "handlers/eidetic_runtime" / path.name).write_text("")
    ours = Path(__file__).parents[2]
    (project / "setup.py").write_bytes((ours / "setup.py").read_bytes())
    (project / "pyproject.toml").write_text(
        textwrap.dedent("""
        [project]
        name = "another"
        version = "9.9"
        [tool.setuptools]
        packages = ["eidetic_runtime"]
        package-dir = {eidetic_runtime = "handlers/eidetic_runtime"}
        """)
    )
    build = f"import setuptools.build_meta as s; s.build_editable({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=project, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, folder / "site"], check=True)
    return folder


@pytest.mark.parametrize(
    "surroundings",
    often(
        [SITE_PACKAGES, FIRST_ON_THE_PATH, EDITABLE, IMPORTED_BY_A_PTH_FILE, "", "import site"],
        [FIRST_ON_THE_PATH, IMPORTED_BY_A_PTH_FILE],
    ),
)
def test_a_worker_runs_the_runtime_of_its_archive_alone(unpacked, other, surroundings):
    code = (
        WORKER.replace("SURROUNDINGS", surroundings)
        .replace("OTHER", repr(str(other / "project/handlers")))
        .replace("SITE", repr(str(other / "site")))
    )
    env = {"PYTHONPATH": str(unpacked)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    files = json.loads(done.stdout)
    assert {Path(file).relative_to(unpacked).as_posix() for file in files.values()} == {
        path.relative_to(unpacked).as_posix() for path in unpacked.rglob("eidetic_*/*.py")
    } | {path.name for path in unpacked.glob("eidetic_*.py")}


def test_what_the_archive_lacks_is_not_taken_from_elsewhere(unpacked, other):
    (other / "project/handlers/eidetic_runtime/later.py").write_text("")
    code = "import site; site.addsitedir(SITE); import eidetic_handler, eidetic_runtime.later"
    code = code.replace("SITE", repr(str(other / "site")))
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(unpacked)}, capture_output=True, text=True
    )
    assert done.stderr.endswith(f"ModuleNotFoundError: {unpacked} holds no eidetic_runtime.later\n")
