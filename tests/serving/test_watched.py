"""What a real TorchServe's workers count, record and log is what was sent to them."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from eideticnet.export.archive.reader import read_archive
from eideticnet.export.archive.writer import write_archive
from eideticnet.serving.deploys.recording import in_rings
from tests.support.bare_torchserve import started
from tests.support.handler_worker import make_bundle
from tests.support.waiting import PATIENCE, eventually, until

ROOT = Path(__file__).parents[2]
SHADOW = {"eidetic-shadow": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    for name in ("metrics", "rings"):
        (folder / name).mkdir()
    return folder


@pytest.fixture(scope="module")
def ask(folder):
    """Sends a request to a server of two workers, with headers."""
    path = folder / "small-3.0.mar"
    bundle = make_bundle(folder / "bundle", prefixes=(1,))
    write_archive(bundle, ROOT / "handlers", path, {"minWorkers": 2, "maxWorkers": 2, "batchSize": 4})
    archive = read_archive(path)
    variables = {
        "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
        "EIDETIC_RECORD": "50",
        "EIDETIC_RECORDS": str(folder / "rings"),
        "EIDETIC_LOG": str(folder / "log"),
    }
    with started([archive], variables=variables) as server:
        until(lambda: len(list((folder / "rings").iterdir())) == 2)  # ready is said when one answers
        url = f"{server.ports.inference_url}/predictions/small"
        headers = {"Authorization": f"Bearer {server.keys()['inference']}"}
        with httpx.Client(headers=headers, trust_env=False, timeout=PATIENCE) as client:
            yield lambda body, **more: client.post(url, json=body, headers=more.get("headers"))


def counted(folder):
    """The values of now, by name and labels."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder / "metrics"))
    samples = [sample for family in registry.collect() for sample in family.samples]
    values = {(s.name, frozenset(s.labels.items())): s.value for s in samples}

    def value(name, **labels):
        labels |= {"model": "small", "version": "3.0"}
        return values.get((f"eidetic_{name}", frozenset(labels.items())))

    return value


def rows(first, count):
    return [[float(i)] + [0.5] * 5 for i in range(first, first + count)]


def test_metrics_of_two_workers_add_up_to_what_was_sent(ask, folder):
    before = counted(folder)
    with ThreadPoolExecutor(8) as pool:
        routed = list(pool.map(lambda row: ask({"data": row}).json(), rows(0, 40)))
        list(pool.map(lambda row: ask({"data": row}, headers=SHADOW), rows(0, 7)))  # counted apart
        pinned = list(pool.map(lambda row: ask({"data": row, "task": "task 1"}).json(), rows(0, 12)))
        refused = list(pool.map(lambda row: ask({"data": row[1:]}).status_code, rows(0, 9)))
    assert refused == [400] * 9

    def more(name, **labels):
        return counted(folder)(name, **labels) - (before(name, **labels) or 0)

    def as_sent():
        assert (more("requests_total"), more("probes_total")) == (61, 7)
        for task, sent in Counter(a["task"] for a in routed).items():
            assert more("answers_total", task=task, pinned="false") == sent
        assert more("answers_total", task="task 1", pinned="true") == len(pinned)
        assert more("errors_total", kind="bad_request") == 9
        assert more("errors_total", kind="internal") == 0
        assert more("router_confidence_count") == 40
        sure = sum(a["task_probability"] for a in routed)
        assert more("router_confidence_sum") == pytest.approx(sure, rel=1e-5)
        assert more("batch_requests_sum") == 61
        for stage in ("decode", "graph", "handler"):
            assert more(f"{stage}_seconds_count") == 61
            assert more(f"{stage}_seconds_bucket", le="+Inf") == 61
        assert more("handler_seconds_sum") >= more("graph_seconds_sum") + more("decode_seconds_sum") > 0

    eventually(as_sent)  # a worker counts when it has answered
    assert len({p.stem.rpartition("_")[2] for p in (folder / "metrics").iterdir()}) == 2


def test_recorded_requests_are_the_newest_that_people_sent(ask, folder):
    archive = read_archive(folder / "small-3.0.mar")
    for i, row in enumerate(rows(1000, 30)):
        ask({"data": row, "threshold": 0.25} | ({"task": "task 1"} if i % 2 else {}))
        ask({"data": [-1.0] * 6}, headers=SHADOW)
        ask({"data": []})

    def as_sent():
        found = in_rings(folder / "rings", "small", archive.bundle.input)
        assert found.x[-20:].tolist() == rows(1010, 20)
        assert found.task[-20:].tolist() == [-1, 1] * 10
        assert np.unique(found.threshold[-20:]).tolist() == [0.25]

    eventually(as_sent)  # a worker records when it has answered
    rings = list((folder / "rings").iterdir())
    assert len(rings) == 2
    assert all(len(np.load(ring)) == 50 for ring in rings)


def test_a_refused_request_is_found_in_the_log_by_either_id(ask, folder):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    response = ask({"data": [1]}, headers={"X-Request-ID": "mine-7", "traceparent": trace})
    assert response.headers["eidetic-request-id"] == "mine-7"
    assert response.headers["traceparent"] == trace
    until(lambda: "mine-7" in (folder / "log").read_text())  # written after the answer
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    (line,) = (line for line in lines if line.get("sender_id") == "mine-7")
    assert line["request_id"] == response.headers["x-request-id"]
    assert (line["trace_id"], line["status"], line["field"]) == (trace[3:35], 400, "data")
    assert (line["model"], line["version"]) == ("small", "3.0")


def test_no_key_is_in_the_log(ask, folder):
    key = str(ask({"data": []}).request.headers["authorization"]).removeprefix("Bearer ")
    assert len(key) >= 8
    until(lambda: '"refused"' in (folder / "log").read_text())
    assert key not in (folder / "log").read_text()
