"""What workers count is what happened, and costs little."""

import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

from eidetic_runtime.metrics import CONFIDENCE, _observe

RUN = """
import json, sys, numpy as np
from eidetic_runtime.metrics import open_metrics
tasks = json.loads(sys.stdin.read())
metrics = open_metrics("m", "1", tasks)
print("on" if metrics else "off", flush=True)
exec(sys.argv[1])
"""


def run(folder, code="", tasks=("a", "b"), limit=None):
    """What a worker prints that runs ``code`` with ``metrics``, and the series that it leaves."""
    paths = os.pathsep.join(p for p in sys.path if p)
    env = os.environ | {"PYTHONPATH": paths, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, code],
        input=json.dumps(tasks),
        env=env,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=limit,
    )
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))
    return done, lambda name, **labels: registry.get_sample_value(
        f"eidetic_{name}", {"model": "m", "version": "1", **labels}
    )


BATCHES = """
probs = np.array([[0.7, 0.3], [0.25, 0.75], [0.55, 0.45], [0.6, 0.4]], np.float32)
seconds = {"decode": 0.001, "graph": 0.004, "handler": 0.006}
metrics.batch(5, ["bad_request", "internal", "bad_request"], seconds)
metrics.rows(np.array([-1, -1, -1, 1]), np.array([0, 1, -1, 1]), probs)
metrics.batch(1, [], seconds)
metrics.rows(np.array([0, 0]), np.array([0, 0]), None)
"""


def test_what_happened_is_what_is_counted(tmp_path):
    _, value = run(tmp_path, BATCHES)
    assert value("requests_total") == 6
    assert value("answers_total", task="a", pinned="false") == 1
    assert value("answers_total", task="b", pinned="false") == 1
    assert value("answers_total", task="a", pinned="true") == 2
    assert value("answers_total", task="b", pinned="true") == 1
    assert value("unknown_total") == 1
    assert value("errors_total", kind="bad_request") == 2
    assert value("errors_total", kind="internal") == 1
    assert value("errors_total", kind="expired") == 0
    assert value("batch_requests_count") == 2
    assert value("batch_requests_sum") == 6
    assert value("graph_seconds_count") == value("handler_seconds_count") == 6
    assert value("graph_seconds_sum") == pytest.approx(0.024)
    assert value("graph_seconds_bucket", le="0.005") == 6
    assert value("graph_seconds_bucket", le="0.0025") == 0
    assert value("router_confidence_count") == 3  # a pinned row was routed by nobody
    assert value("router_confidence_sum") == pytest.approx(2.0)
    assert value("router_confidence_bucket", le="0.6") == 1


def test_several_workers_are_counted_together_and_a_dead_one_stays_counted(tmp_path):
    run(tmp_path, BATCHES + "import os, signal; os.kill(os.getpid(), 0)")
    _, value = run(tmp_path, BATCHES)
    assert value("requests_total") == 12


@given(st.lists(st.floats(0, 2) | st.sampled_from(CONFIDENCE), max_size=50), st.integers(1, 40))
def test_observing_many_at_once_is_observing_each(values, times):
    at_once, each = (Histogram("h", "text", buckets=CONFIDENCE, registry=None) for _ in range(2))
    _observe(at_once, values, times)
    for value in np.repeat(values, times).tolist():
        each.observe(value)
    found, expected = (
        {(s.name, s.labels.get("le")): s.value for s in h.collect()[0].samples if "created" not in s.name}
        for h in (at_once, each)
    )
    assert found == pytest.approx(expected)


def test_a_library_that_is_laid_out_differently_still_counts():
    seen = []

    class Other:
        observe = staticmethod(seen.append)

    _observe(Other(), [0.5, 1.0], 2)
    assert seen == [0.5, 0.5, 1.0, 1.0]


def test_a_worker_takes_all_its_disk_space_at_once(tmp_path):
    """Nothing is mapped beyond what was reserved, however long the names are."""
    reserved = (
        "from pathlib import Path; from eidetic_runtime import metrics as e; Path('DIR').mkdir(); "
        "e._reserve(Path('DIR'), e._FILE_BYTES + sum(1024 + 16 * len(t) for t in tasks))"
    ).replace("DIR", str(tmp_path / "reserved"))
    folder = tmp_path / "used"
    folder.mkdir()
    tasks = ["\u6f22" * 199 + chr(0x4E00 + i) for i in range(300)]
    run(folder, BATCHES + reserved, tasks)
    before = {p.name.partition("_")[0]: p.stat().st_size for p in (tmp_path / "reserved").iterdir()}
    after = {p.name.partition("_")[0]: p.stat().st_size for p in folder.iterdir()}
    assert before == after


@pytest.mark.parametrize("folder", ["missing", ""])
def test_a_folder_that_is_not_there_means_no_metrics(tmp_path, folder):
    paths = os.pathsep.join(p for p in sys.path if p)
    env = os.environ | {"PYTHONPATH": paths}
    env["PROMETHEUS_MULTIPROC_DIR"] = str(tmp_path / folder) if folder else ""
    done = subprocess.run(
        [sys.executable, "-c", RUN, ""], env=env, input="[]", capture_output=True, text=True, check=True
    )
    assert done.stdout == "off\n"
    assert bool(done.stderr) == bool(folder)


def test_a_disk_without_room_means_no_metrics_and_a_worker_that_lives(tmp_path):
    """The limit on a file's size stands in for a full disk: both fail where space is taken."""
    done, _ = run(tmp_path, limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))
    assert done.stdout == "off\n"
    assert "no metrics" in done.stderr
