"""Inputs that are too large for a line of a shell, for an environment, and as JSON for a request."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from eideticnet import EideticNetwork, Inputs, Routing, batches
from eideticnet.export.archive.reader import read_archive
from eideticnet.export.archive.writer import write_archive
from eideticnet.export.bundle.writer import write_bundle
from eideticnet.serving.deploys.probes import as_json
from eideticnet.serving.errors import MOST_BYTES
from eideticnet.serving.questions import example
from tests.support.own_ports import with_own_ports
from tests.support.served_process import Served, serving
from tests.support.small_networks import LIGHT, QUICK

HANDLERS = Path(__file__).parents[2] / "handlers"
ANSWER = {"task": "t", "unknown": False, "model_version": "1.0"}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Takes pictures of 3x384x384: 1.8 MB of numbers."""
    folder, shape = tmp_path_factory.mktemp("large"), (3, 384, 384)
    (folder / "bundle").mkdir()
    x, y = torch.rand(8, *shape), torch.arange(8) % 2
    trunk = nn.Sequential(nn.AvgPool2d(96), nn.Flatten(), nn.Linear(48, 8), nn.ReLU())
    net = EideticNetwork(trunk, x[:2], inputs=Inputs(shape, low=0, high=1), seed=0)
    net.train_task("t", batches(x, y, 4), ["a", "b"], training=QUICK, pruning=LIGHT)
    net.fit_router({}, routing=Routing("none", "entropy"))
    write_bundle(net, folder / "bundle", name="large", model_version="1.0")
    write_archive(folder / "bundle", HANDLERS, folder / "large-1.0.mar")
    return folder / "large-1.0.mar"


def test_a_model_of_large_inputs_becomes_ready_and_its_printed_request_works(large, tmp_path):
    request = json.dumps({"data": as_json(example(read_archive(large)))})
    assert len(request) > MOST_BYTES
    with Served(tmp_path / "home", large) as server:
        assert server.control("/ready").status_code == 200
        (curl,) = [line for line in server.output().splitlines() if line.startswith("curl")]
        assert len(curl) < 1000
        done = subprocess.run(curl, shell=True, capture_output=True, text=True, check=True)
    assert ANSWER.items() <= json.loads(done.stdout).items()


def test_a_command_beside_a_model_of_large_inputs_finds_an_example_of_them(large, tmp_path):
    command = 'curl -sS -H "@$EIDETIC_HOME/authorization.txt" -H "Content-Type: application/x-npy" '
    command += '--data-binary "@$EIDETIC_EXAMPLE" $EIDETIC_URL/predictions/$EIDETIC_MODEL'
    done = serving("serve", large, "--home", with_own_ports(tmp_path / "home"), "--run", command)
    assert ANSWER.items() <= json.loads(done.stdout).items(), done.stderr
