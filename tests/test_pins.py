"""What `make setup` installs is the same everywhere: every extra resolves to pinned versions alone."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PINS = ROOT / "requirements/constraints.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CUDA = re.compile(r"(nvidia|cuda)-.*|triton")
"""What torch's wheel for CUDA brings: it pins them itself, each build of it to other versions."""
UNREACHABLE = re.compile(r"NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError|ReadTimeout")


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned():
    lines = (line for line in PINS.read_text().splitlines() if not line.startswith("#"))
    return {plain(name): version for name, _, version in (line.partition("==") for line in lines)}


def resolved(*needs):
    """What pip would install on a machine without compilers and other packages, by name."""
    options = ["--dry-run", "--ignore-installed", "--quiet", "--report", "-", "--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "2", "install"]
    result = subprocess.run(
        [*command, *options, "-c", str(PINS), *needs], capture_output=True, text=True, check=False
    )
    if result.returncode and UNREACHABLE.search(result.stderr) and "CI" not in os.environ:
        pytest.skip("no package index can be reached from here")
    assert result.returncode == 0, result.stderr
    found = [item["metadata"] for item in json.loads(result.stdout)["install"]]
    return {plain(item["name"]): item["version"].partition("+")[0] for item in found}


def without_cuda(found):
    return {name: version for name, version in found.items() if not CUDA.fullmatch(name)}


def test_everything_that_make_setup_installs_is_pinned_and_nothing_else_is():
    others = [need for extra, needs in EXTRAS.items() if extra != "gpu" for need in needs]
    found = resolved("pip", "wheel", *PROJECT["dependencies"], *others)
    assert {**without_cuda(found), "onnxruntime-gpu": pinned()["onnxruntime-gpu"]} == pinned()


def test_the_gpu_extra_exists_at_its_pin_and_brings_the_libraries_that_it_loads():
    found = resolved(*PROJECT["dependencies"], *EXTRAS["gpu"])
    assert without_cuda(found).items() <= pinned().items()
    assert "onnxruntime" not in found
    assert {"onnxruntime-gpu", "nvidia-cudnn-cu13", "nvidia-cufft", "nvidia-curand"} <= found.keys()
    assert "nvidia-cublas" in found  # which cuDNN needs


def test_make_asks_for_the_python_that_the_package_needs():
    (version,) = re.findall(r"v != \((\d+), (\d+)\)", (ROOT / "Makefile").read_text())
    assert PROJECT["requires-python"] == f"=={'.'.join(version)}.*"
