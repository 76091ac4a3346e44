"""The last requests are kept in rings that may be read while they are written and after a kill."""

import os
import resource
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from eidetic_runtime.ring import FOLDER, ROWS, Ring, open_ring, ring_name
from eideticnet.contract.bundle import Input
from eideticnet.export.archive.labeled_inputs import read_inputs
from eideticnet.serving.deploys.recording import in_rings, read, remove_old_rings
from eideticnet.serving.errors import ServingError
from tests.support.waiting import until

SPEC = {"shape": [4], "dtype": "float32", "low": None, "high": None}
INPUT = Input(**SPEC)


def rows(first, count):
    x = np.arange(first, first + count, dtype=np.float32)[:, None].repeat(4, 1)
    return x, np.full(count, first % 3 - 1), np.full(count, 0.5, np.float32)


def ring(folder, size, model="m", version="1", process=1):
    return Ring(folder / ring_name(model, version, process), SPEC, size)


@given(size=st.integers(1, 12), batches=st.lists(st.integers(1, 20), max_size=12))
def test_a_ring_holds_the_newest_rows_in_their_order(tmp_path_factory, size, batches):
    folder = tmp_path_factory.mktemp("ring")
    kept, sent = ring(folder, size), 0
    for count in batches:
        kept.write(*rows(sent, count))
        sent += count
    found = in_rings(folder, "m", INPUT)
    assert found.x[:, 0].tolist() == list(range(max(0, sent - size), sent))
    assert (np.diff(found.time) > 0).all()


def test_the_newest_rows_come_out_of_all_rings_of_a_model(tmp_path):
    rings = [
        ring(tmp_path, 3, "digits-a", "1", 7), ring(tmp_path, 3, "digits-a", "2-rc", 8)
    ]  # fmt: skip
    ring(tmp_path, 3, "digits", "1", 9).write(*rows(900, 3))
    for i in range(8):
        rings[i % 2].write(*rows(i, 1))
    assert in_rings(tmp_path, "digits-a", INPUT).x[-4:, 0].tolist() == [4, 5, 6, 7]
    assert in_rings(tmp_path, "digits", INPUT).x[:, 0].tolist() == [900, 901, 902]
    assert len(in_rings(tmp_path, "other", INPUT)) == 0


def test_what_is_no_ring_of_this_contract_is_left_out(tmp_path):
    ring(tmp_path, 2).write(*rows(5, 2))
    Ring(tmp_path / "m-1-2.npy", {**SPEC, "shape": [3]}, 2).write(np.ones((2, 3)), np.ones(2), np.ones(2))
    np.save(tmp_path / "m-1-3.npy", np.ones(3))
    (tmp_path / "m-1-4.npy").write_bytes(b"")
    (tmp_path / "m-1-5.npy").write_bytes((tmp_path / ring_name("m", "1", 1)).read_bytes()[:-5])
    assert in_rings(tmp_path, "m", INPUT).x[:, 0].tolist() == [5, 6]


def test_a_recording_becomes_routing_data_and_comes_back(tmp_path):
    kept = ring(tmp_path, 10)
    kept.write(*rows(0, 4))
    kept.write(*rows(4, 3))
    found, file = in_rings(tmp_path, "m", INPUT), tmp_path / "recorded.safetensors"
    found.write(file)
    real = read_inputs(file, INPUT)
    assert real.x.tobytes() == found.x.tobytes()
    assert real.task is real.label is None  # a pinned task is not known to be right
    for source in (file, tmp_path / ring_name("m", "1", 1), tmp_path):
        again = read(source, "m", INPUT)
        for name in ("x", "task", "threshold", "time"):
            assert getattr(again, name).tobytes() == getattr(found, name).tobytes()


@pytest.mark.parametrize(
    "name", ["missing.npy", "missing.safetensors", "bad.npy", "bad.safetensors", "empty"]
)
def test_what_is_no_recording_is_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.npy").write_bytes(b"x")
    (tmp_path / "bad.safetensors").write_bytes(b"x")
    with pytest.raises(ServingError, match=rf"{name} holds no recorded requests of float32 and shape \[4\]"):
        read(tmp_path / name, "m", INPUT)


def test_only_the_owner_may_read_what_people_sent(tmp_path):
    ring(tmp_path, 2).write(*rows(0, 2))
    in_rings(tmp_path, "m", INPUT).write(tmp_path / "all.safetensors")
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


WRITER = """
import sys, numpy as np
from pathlib import Path
from eidetic_runtime.ring import Ring
ring = Ring(Path(sys.argv[1]), {"shape": [20000], "dtype": "float32"}, 8)
print("ready", flush=True)
for i in range(10**9):
    ring.write(np.full((3, 20000), i, np.float32), np.full(3, i), np.full(3, 0.5, np.float32))
"""


@pytest.fixture
def writer(tmp_path):
    """A process that writes rows of 80 kB, each of one number, as fast as it can."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "m-1-1.npy")], env=env, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


WIDE = {**SPEC, "shape": [20000]}


def test_no_half_row_is_read_while_a_worker_writes(tmp_path, writer):
    seen = set()

    def many_seen():
        found = in_rings(tmp_path, "m", Input(**WIDE))
        assert (found.x == found.x[:, :1]).all()
        assert (found.task == found.x[:, 0]).all()
        seen.update(found.task.tolist())
        return len(seen) >= 20

    until(many_seen)


def test_no_half_row_is_left_by_a_worker_that_is_killed(tmp_path, writer):
    until(lambda: len(in_rings(tmp_path, "m", Input(**WIDE))) >= 5)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    found = in_rings(tmp_path, "m", Input(**WIDE))
    assert len(found) >= 5  # all but what was being written
    assert (found.x == found.x[:, :1]).all()
    assert (found.task == found.x[:, 0]).all()


def test_of_workers_that_ended_as_many_rings_stay_as_are_wanted_the_newest_of_each_model(tmp_path):
    ended = []
    for _ in range(4):
        with subprocess.Popen(["true"]) as process:
            process.wait()
        ended.append(process.pid)
    for model in ("a", "b-c"):
        for age, process in enumerate([os.getpid(), *ended]):
            ring(tmp_path, 2, model, str(age), process)
            os.utime(tmp_path / ring_name(model, str(age), process), (age, age))
    (tmp_path / "other.npy").touch()
    remove_old_rings(tmp_path, 2)
    kept = {(str(age), process) for age, process in enumerate([os.getpid(), *ended]) if age in (0, 3, 4)}
    names = {ring_name(model, *which) for model in ("a", "b-c") for which in kept}
    assert {path.name for path in tmp_path.iterdir()} == names | {"other.npy"}


@pytest.fixture
def asked(tmp_path, monkeypatch):
    monkeypatch.setenv(ROWS, "1000")
    monkeypatch.setenv(FOLDER, str(tmp_path))
    return tmp_path


def test_nothing_is_recorded_unless_asked_for(asked, monkeypatch):
    assert open_ring("m", "1", SPEC) is not None
    for name, value in ((ROWS, "0"), (ROWS, ""), (FOLDER, "")):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            assert open_ring("m", "1", SPEC) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [(ROWS, "many"), (ROWS, "-3"), (ROWS, "9" * 18), (ROWS, "9" * 30), (FOLDER, "/nowhere")],
)
def test_what_can_not_be_recorded_is_said_and_stops_nothing(asked, monkeypatch, caplog, name, value):
    monkeypatch.setenv(name, value)
    assert open_ring("m", "1", SPEC) is None
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("eidetic")]
    assert len(lines) == 1, lines
    (line,) = lines
    assert line.startswith("no request is recorded: ")


def test_a_disk_without_room_is_noticed_before_a_row_is_written(asked, caplog):
    """The limit on a file's size stands in for a full disk: both fail where space is taken."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        assert open_ring("m", "1", SPEC) is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (line,) = [r.getMessage() for r in caplog.records if r.name.startswith("eidetic")]
    assert "no request is recorded" in line
    assert list(asked.iterdir()) == []


def test_what_is_no_ring_keeps_no_ring_from_being_removed(tmp_path):
    ring(tmp_path, 2, "b", "1", 4000000003)
    (tmp_path / "a-1-4000000001.npy").symlink_to("nowhere")
    (tmp_path / "a-1-4000000002.npy").mkdir()
    remove_old_rings(tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["a-1-4000000002.npy"]


GOOD = {
    "x": np.ones((2, 4), "f4"),
    "pinned": np.zeros(2, "i8"),
    "threshold": np.ones(2, "f4"),
    "time": np.ones(2),
}


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("x", np.ones((2, 5), "f4")),
        ("x", np.ones((2, 4))),
        ("x", np.array(1, "f4")),
        ("x", np.full((2, 4), np.nan, "f4")),
        ("pinned", np.zeros((2, 1), "i8")),
        ("pinned", np.zeros(2, "f4")),
        ("pinned", np.full(2, -7)),
        ("threshold", np.full(2, np.nan, "f4")),
        ("threshold", np.full(2, 5, "f4")),
        ("time", np.array(1.0)),
        ("time", np.ones(3)),
    ],
)
def test_a_recording_that_no_server_wrote_holds_nothing(name, array, tmp_path):
    file = tmp_path / "recorded.safetensors"
    save_file(GOOD, file)
    assert len(read(file, "m", INPUT)) == 2
    save_file({**GOOD, name: array}, file)
    with pytest.raises(ServingError, match="holds no recorded requests"):
        read(file, "m", INPUT)


def test_a_recording_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "recorded.safetensors")
    with pytest.raises(ServingError, match=r"recorded\.safetensors: it is a pipe"):
        read(tmp_path / "recorded.safetensors", "m", INPUT)
