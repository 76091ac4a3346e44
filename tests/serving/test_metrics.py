"""What workers counted that have ended is kept, and their files are not."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from eideticnet.serving.supervise.metrics import WorkerMetrics, registry
from eideticnet.serving.supervise.watch import Watch
from tests.support.served_process import Served
from tests.support.waiting import until

WORKER = """
import numpy as np, sys
from eidetic_runtime.metrics import open_metrics
metrics = open_metrics("m", "1", ["a", "b"])
metrics.batch(int(sys.argv[1]), ["internal"], {"decode": 0.001, "graph": 0.004, "handler": 0.006})
metrics.rows(np.array([-1, 0]), np.array([0, 1]), np.array([[0.7, 0.3], [0.2, 0.8]], np.float32))
"""


def counted(collector):
    samples = [sample for family in collector.collect() for sample in family.samples]
    return {(s.name, *sorted(s.labels.items())): s.value for s in samples}


def test_workers_that_have_ended_leave_their_counts_and_no_file(tmp_path):
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
    }
    workers, every = WorkerMetrics(tmp_path), tmp_path.with_name("every")
    every.mkdir()
    for requests in (1, 2, 3):
        subprocess.run([sys.executable, "-c", WORKER, str(requests)], env=env, check=True)
        for path in tmp_path.iterdir():
            shutil.copy(path, every)
        before = counted(workers)
        assert before == counted(MultiProcessCollector(None, path=str(every)))
        workers.keep_ended()
        assert counted(workers) == before
        assert not list(tmp_path.iterdir())
    assert before["eidetic_requests_total", ("model", "m"), ("version", "1")] == 6


BOUNDS = st.sampled_from(["1.0", "2.5", "+Inf"])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.dictionaries(st.tuples(st.text(max_size=50), BOUNDS), st.integers(0, 2**40), max_size=20)))
def test_no_count_is_ever_lost_or_changed_whenever_workers_end(tmp_path_factory, files):
    """Each file is a worker's; the last one still lives. The library, given all files at once, is right."""
    some, every = tmp_path_factory.mktemp("some"), tmp_path_factory.mktemp("every")
    workers = WorkerMetrics(some)
    for number, values in enumerate(files):
        pid = os.getpid() if number == len(files) - 1 else 4_000_000_000 + number
        counters = MmapedDict(str(every / f"counter_{pid}.db"))
        buckets = MmapedDict(str(every / f"histogram_{pid}.db"))
        for (label, bound), value in values.items():
            for file, names, labels in (
                (counters, ["c", "c_total"], {"label": label}),
                (buckets, ["h", "h_sum"], {"label": label}),
                (buckets, ["h", "h_bucket"], {"label": label, "le": bound}),
            ):
                key = json.dumps([*names, labels, "What was counted."])
                file.write_value(key, file.read_value(key)[0] + value, 0.0)
        for file in (counters, buckets):
            file.close()
            shutil.copy(file._fname, some)
        if number % 2:
            workers.keep_ended()
    expected = counted(MultiProcessCollector(None, path=str(every)))
    assert counted(workers) == expected
    workers.keep_ended()
    assert counted(workers) == expected
    assert len(list(some.iterdir())) == 2 * bool(files)


def total(server, name):
    """The sum of a counter's series."""
    families = text_string_to_metric_families(server.control("/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == f"eidetic_{name}_total")


def settled(server):
    """Wait until the only worker has counted what it answered, which it does before it takes the next batch:
    the server's own probes come by themselves, and are no requests."""
    probes = total(server, "probes")
    until(lambda: total(server, "probes") >= probes + 2)


def test_a_server_whose_workers_were_killed_again_and_again_keeps_few_files(versions, tmp_path):
    with Served(tmp_path / "home", versions["1.0"]) as server:
        for _ in range(3):
            (worker,) = until(server.workers)
            assert until(lambda: server.answers({"data": [0.5] * 6}))
            worker.kill()
            until(lambda gone=worker: gone not in server.workers())
        assert until(lambda: server.answers({"data": [0.5] * 6}))
        assert until(lambda: len(list((server.home / "metrics").iterdir())) <= 4)
        assert 'eidetic_answers_total{model="net"' in server.control("/metrics").text
        settled(server)
        before = total(server, "requests")
        answered = total(server, "answers") + total(server, "unknown")
        assert 0 <= before - answered <= 3  # a worker may be killed after it answered, before that is counted
        for _ in range(3):
            assert server.predict({"data": [0.5] * 6}).status_code == 200
        settled(server)
        assert total(server, "requests") == before + 3
        assert total(server, "answers") + total(server, "unknown") == answered + 3


def test_a_file_that_a_worker_had_no_time_to_write_costs_no_other_count(tmp_path):
    file = MmapedDict(str(tmp_path / "counter_4000000000.db"))
    file.write_value(json.dumps(["mine", "mine_total", {}, "What was counted."]), 7, 0.0)
    file.close()
    (tmp_path / "counter_4000000001.db").touch()
    (tmp_path / "counter_4000000002.db").write_bytes(b"\xff\xff\xff\x00" * 9)
    workers = WorkerMetrics(tmp_path)
    workers.keep_ended()
    assert not list(tmp_path.iterdir())
    assert counted(workers) == {("mine_total",): 7}


def test_whatever_lies_among_the_files_of_workers_costs_no_scrape(tmp_path, caplog):
    key = json.dumps(["mine_total", "mine_total", {}, "What was counted."])
    file = MmapedDict(str(tmp_path / f"counter_{os.getpid()}.db"))
    file.write_value(key, 7, 0.0)
    file.close()
    whole = Path(file._fname).read_bytes()
    odd = [
        b"",
        b"\0",
        b"\xff" * 4000,
        whole[:30],
        whole.replace(b"mine", b"m{n]"),
        whole.replace(b"[", b"0", 1),
    ]
    for process, content in enumerate(odd):
        for kind in ("counter", "histogram", "gauge"):
            (tmp_path / f"{kind}_400000000{process}.db").write_bytes(content)
    os.mkfifo(tmp_path / "counter_1.db")
    (tmp_path / "counter_2.db").mkdir()
    (tmp_path / "else.db").touch()
    workers = WorkerMetrics(tmp_path)
    metrics = registry(Watch("An engine"), workers)
    for _ in range(2):
        assert counted(metrics)["mine_total",] == 7
        generate_latest(metrics)
        workers.keep_ended()
