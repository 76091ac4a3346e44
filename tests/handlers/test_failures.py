"""What fails inside fails for the request that it belongs to, in our form, and for nobody else."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eideticnet import Routing
from tests.support.exported_networks import network
from tests.support.handler_worker import Worker, make_bundle

BAD, GOOD = [3, 50, 1, 2, 3, 4, 5], [3, 10, 1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """A worker whose bundle promises more token ids than its graph knows, as a wrong bundle might."""
    net = network("zoo/gru")
    net.fit_router({}, routing=Routing("none", "entropy"))
    folder = make_bundle(tmp_path_factory.mktemp("failing") / "tokens", net)
    bundle = json.loads((folder / "bundle.json").read_text())
    bundle["input"] |= {"low": 0, "high": 99}
    (folder / "bundle.json").write_text(json.dumps(bundle))
    return Worker(folder)


@given(st.lists(st.sampled_from(["good", "bad", "refused", "many"]), min_size=1, max_size=12))
def test_a_request_that_the_graph_fails_on_disturbs_nobody(worker, kinds):
    requests = {
        "good": {"data": GOOD},
        "bad": {"data": BAD},
        "refused": {"data": GOOD[1:]},
        "many": {"instances": [GOOD, GOOD]},
    }
    replies = worker.ask([requests[kind] for kind in kinds])
    for kind, reply in zip(kinds, replies, strict=True):
        if kind == "good":
            assert (reply.status, reply.body["model_version"]) == (200, "3.0")
        elif kind == "many":
            assert (reply.status, len(reply.body["predictions"])) == (200, 2)
        elif kind == "bad":
            assert reply.status == 500
            assert reply.body["error"]["kind"] == "internal"
            assert set(reply.body["error"]) == {"kind", "field", "message"}
        else:
            assert (reply.status, reply.body["error"]["kind"]) == (400, "bad_request")


def test_one_bad_instance_fails_its_whole_request(worker):
    (reply,) = worker.ask([{"instances": [GOOD, BAD]}])
    assert reply.status == 500


def test_an_answer_that_can_not_be_written_fails_alone(worker, monkeypatch):
    """A class too few in the bundle: what a graph answers then has no name."""
    (first,) = worker.ask([{"data": GOOD, "task": worker.bundle["tasks"][0]["name"]}])
    assert first.status == 200
    label = worker.bundle["tasks"][0]["classes"].index(first.body["label"])
    task = {**worker.bundle["tasks"][0], "classes": ["only"] * label}
    monkeypatch.setitem(worker.handler.model.bundle, "tasks", [task, *worker.bundle["tasks"][1:]])
    names = [t["name"] for t in worker.bundle["tasks"]]
    replies = worker.ask([{"data": GOOD, "task": name} for name in (names[0], names[1], names[0])])
    assert [r.status for r in replies] == [500, 200, 500]


FAILING = """
import sys, time
import numpy as np
from eidetic_runtime.passes import Pass
def graph(*_):
    raise RuntimeError(sys.argv[1])
one = Pass([], [], np.zeros((1, 2)), np.zeros(1), np.zeros(1))
one.run(graph)
print(one.error, flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("error", "seconds", "status"),
    [
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", 60, 1),
        ("CUDA error: device-side assert triggered", 60, 1),
        ("CUDA failure 2: out of memory ; GPU=0", 1, 0),
        ("Non-zero status code returned while running Gather node", 1, 0),
    ],
)
def test_a_worker_that_lost_cuda_ends_once_it_has_answered_and_no_other_does(error, seconds, status):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", FAILING, error, str(seconds)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (status, f"RuntimeError: {error}\n"), done.stderr
