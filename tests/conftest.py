"""Settings that all tests share."""

import gc
import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.support import forked
from tests.support.example_counts import ALL
from tests.support.made_once import once
from tests.support.xdist_scheduling import Together, begins

ROOT = Path(__file__).parents[1]
gc.disable()  # what is imported stays: looking through it for garbage takes a third of the collection's time
os.environ |= {"ORT_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}

# No shrinking: every example trains networks, and the failing one is small enough to read. No deadline and
# no complaint that drawing takes long: no test depends on how fast a machine is.
settings.register_profile(
    ALL,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    print_blob=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("default", settings.get_profile(ALL), max_examples=10)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["forked"] = forked.offered()


def pytest_configure(config):
    if hasattr(config, "workerinput"):
        forked.taken_from(config.workerinput["forked"])


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: begins(item.path))


def pytest_collection_finish():
    """What is imported by now need not be looked through again and again for garbage."""
    gc.freeze()
    gc.enable()
    gc.set_threshold(20_000, 20, 20)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """A test draws the same numbers whichever ran before it, and so do its fixtures."""
    import numpy as np
    import torch

    # torch.manual_seed keeps a stack trace for each device that is not there yet
    for seed in (random.seed, np.random.seed, torch.default_generator.manual_seed):
        seed(0)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Together(config, log) if config.getvalue("dist") == "loadfile" else None


def train_digits(folder):
    from eideticnet.__main__ import main

    text = (ROOT / "experiments/digits.toml").read_text().replace('"digits:', '"experiments.digits:')
    head, *tasks = text.replace("hidden = [256, 256]", "hidden = [48, 48]").split("[[tasks]]")
    coarse = "[pruning]\nstep = 0.3\n[router_pruning]\nstep = 0.3\nthreshold = 0.002\n"
    (folder / "config.toml").write_text("[[tasks]]".join([head + coarse, *tasks[:3]]))
    with pytest.raises(SystemExit) as end:
        main(["train", str(folder / "config.toml"), "--out", str(folder / "run")])
    assert not end.value.code


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """A run folder of digits in three tasks, trained by the command line with a smaller trunk."""
    return once(tmp_path_factory, "digits", train_digits) / "run"


@pytest.fixture(scope="session")
def store(digits_run, tmp_path_factory):
    """A model store with the digits as ONNX and as TorchScript."""
    from eideticnet import EideticNetwork
    from eideticnet.export.archive.writer import write_archive
    from eideticnet.export.bundle.writer import write_bundle

    def fill(folder):
        net = EideticNetwork.load(digits_run)
        for kind in ("onnx", "torchscript"):
            bundle = tmp_path_factory.mktemp("bundle")
            write_bundle(
                net, bundle, name=f"digits-{kind}", model_version="3.0", format=kind, max_instances=5
            )
            write_archive(bundle, ROOT / "handlers", folder / f"digits-{kind}-3.0.mar")

    return once(tmp_path_factory, "store", fill)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Two test processes share the cores, and one thread is faster on networks this small."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _exporter_looks_once_at_what_torch_has():
    import tests.support.quick_exporter  # noqa: F401
