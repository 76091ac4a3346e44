"""What `make setup` installs is the same everywhere: every extra resolves to pinned versions alone."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

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
    return {plain(item["name"]): item for item in found}


def versions(found):
    return {name: item["version"].partition("+")[0] for name, item in found.items()}


def brought(needs, found):
    """Add to ``found`` the versions of what is installed here for ``needs``, of their extras too."""
    for need in map(Requirement, needs):
        name = plain(need.name)
        done = found.setdefault(name, (distribution(name).version.partition("+")[0], set()))[1]
        for extra in {"", *need.extras} - done:
            done.add(extra)
            more = map(Requirement, requires(name) or [])
            brought([str(r) for r in more if not r.marker or r.marker.evaluate({"extra": extra})], found)
    return found


def without_cuda(found):
    return {name: version for name, version in found.items() if not CUDA.fullmatch(name)}


NEEDS = ["pip", "wheel", *PROJECT["dependencies"]]
NEEDS += [need for extra, needs in EXTRAS.items() if extra != "gpu" for need in needs]
LIBRARIES = {"nvidia-cudnn-cu13", "nvidia-cufft", "nvidia-curand"}


def all_pins_are(found):
    return {**without_cuda(found), "onnxruntime-gpu": pinned()["onnxruntime-gpu"]} == pinned()


def test_everything_that_make_setup_installed_is_pinned_and_nothing_else_is():
    """And no extra needs what a developer installed beside it."""
    assert all_pins_are({name: version for name, (version, _) in brought(NEEDS, {}).items()})


@pytest.mark.slow
def test_everything_that_make_setup_would_install_is_pinned_and_nothing_else_is():
    assert all_pins_are(versions(resolved(*NEEDS)))


def test_the_gpu_extra_exists_at_its_pin_and_names_the_libraries_that_it_loads():
    (need,) = EXTRAS["gpu"]
    ((name, found),) = resolved("--no-deps", need).items()
    assert (name, found["version"]) == ("onnxruntime-gpu", pinned()["onnxruntime-gpu"])
    extras = [{"extra": extra} for extra in Requirement(need).extras]
    brings = [
        r
        for r in map(Requirement, found["requires_dist"])
        if r.marker and any(map(r.marker.evaluate, extras))
    ]
    assert {plain(r.name) for r in brings} >= LIBRARIES


@pytest.mark.slow
def test_the_gpu_extra_brings_the_libraries_that_it_loads():
    found = versions(resolved(*PROJECT["dependencies"], *EXTRAS["gpu"]))
    assert without_cuda(found).items() <= pinned().items()
    assert "onnxruntime" not in found
    assert {"onnxruntime-gpu", *LIBRARIES} <= found.keys()
    assert "nvidia-cublas" in found  # which cuDNN needs


def test_make_asks_for_the_python_that_the_package_needs():
    (version,) = re.findall(r"v != \((\d+), (\d+)\)", (ROOT / "Makefile").read_text())
    assert PROJECT["requires-python"] == f"=={'.'.join(version)}.*"
