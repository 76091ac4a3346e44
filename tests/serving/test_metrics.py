"""What workers counted that have ended is kept, in no more files than there are kinds."""

import json
import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families
from served import Served, until

from eideticnet.serving.metrics import merge_ended, registry
from eideticnet.serving.watch import Watch

WORKER = """
import numpy as np, sys
from eidetic_metrics import open_metrics
metrics = open_metrics("m", "1", ["a", "b"])
metrics.batch(int(sys.argv[1]), ["internal"], {"decode": 0.001, "graph": 0.004, "handler": 0.006})
metrics.rows(np.array([-1, 0]), np.array([0, 1]), np.array([[0.7, 0.3], [0.2, 0.8]], np.float32))
"""


def counted(folder):
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))
    samples = [sample for family in registry.collect() for sample in family.samples]
    return {(s.name, *sorted(s.labels.items())): s.value for s in samples}


def test_workers_that_have_ended_leave_their_counts_in_one_file_of_a_kind(tmp_path):
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
    }
    for requests in (1, 2, 3):
        subprocess.run([sys.executable, "-c", WORKER, str(requests)], env=env, check=True)
        before = counted(tmp_path)
        merge_ended(tmp_path)
        assert counted(tmp_path) == before
        assert len(list(tmp_path.iterdir())) == 2
    assert before["eidetic_requests_total", ("model", "m"), ("version", "1")] == 6


@settings(max_examples=20)
@given(st.lists(st.dictionaries(st.text(max_size=200), st.integers(0, 2**40), max_size=30), max_size=4))
def test_no_count_is_ever_lost_or_changed(tmp_path_factory, files):
    folder, expected = tmp_path_factory.mktemp("files"), {}
    for number, values in enumerate([*files, {"mine": 1}]):
        pid = os.getpid() if number == len(files) else 4_000_000_000 + number
        file = MmapedDict(str(folder / f"counter_{pid}.db"))
        for key, value in values.items():
            file.write_value(key, value, 0.0)
            expected[key] = expected.get(key, 0) + value
        file.close()
    merge_ended(folder)
    found = {}
    for path in folder.iterdir():
        for key, value, *_ in MmapedDict.read_all_values_from_file(str(path)):
            found[key] = found.get(key, 0) + value
    assert found == expected
    assert len(list(folder.iterdir())) == 1 + min(len(files), 1)


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
            assert until(lambda: server.predict({"data": [0.5] * 6}).status_code == 200)
            worker.kill()
            until(lambda gone=worker: gone not in server.workers())
        assert until(lambda: server.predict({"data": [0.5] * 6}).status_code == 200)
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
    file.write_value("mine", 7, 0.0)
    file.close()
    (tmp_path / "counter_4000000001.db").touch()
    (tmp_path / "counter_4000000002.db").write_bytes(b"\xff\xff\xff\x00" * 9)
    merge_ended(tmp_path)
    (path,) = tmp_path.iterdir()
    assert [entry[:2] for entry in MmapedDict.read_all_values_from_file(str(path))] == [("mine", 7)]


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
    for _ in range(2):
        found = [s for family in registry(Watch(), tmp_path).collect() for s in family.samples]
        assert {s.name: s.value for s in found}["mine_total"] == 7
        merge_ended(tmp_path)
