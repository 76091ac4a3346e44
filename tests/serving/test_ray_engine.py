"""Ray Serve of one machine as the engine of a real server, beside a real TorchServe."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.serving.servers import ours
from eideticnet.client.payload import encode
from eideticnet.serving.home.running import Keys, Running
from eideticnet.serving.processes.folder import MARK
from tests.support.own_ports import with_own_ports
from tests.support.smallest_archive import small_archive
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.slow
JSON, RAW, NPY = "application/json", "application/octet-stream", "application/x-npy"
START_SECONDS = 300
LOOPBACK = ("0100007F:", "0000000000000000FFFF00000100007F:", "00000000000000000000000001000000:")
"""127.0.0.1, the same in IPv6, and ::1, as the kernel writes them."""


@pytest.fixture(scope="module")
def home(archive, colours, tmp_path_factory):
    home = with_own_ports(tmp_path_factory.mktemp("ray") / "home")
    options = (str(colours.path), "--engine=ray", f"--startup-seconds={START_SECONDS}")
    with ours(archive.path, home, *options, seconds=START_SECONDS):
        yield home


@pytest.fixture(scope="module")
def ray_http(home):
    running = Running.read(home / "server.json")
    headers = {"Authorization": f"Bearer {Keys.read(Path(running.keys)).inference}"}
    with httpx.Client(
        base_url=running.inference, headers=headers, timeout=PATIENCE, trust_env=False
    ) as client:
        yield client


def bodies(archive, x):
    one = x[0].tolist()
    yield {"Content-Type": JSON}, json.dumps({"data": one}).encode()
    yield {"Content-Type": JSON}, json.dumps({"instances": x[:4].tolist(), "top_k": 2}).encode()
    yield {"Content-Type": RAW}, x[:3].astype("<f4").tobytes()
    yield {"Content-Type": NPY}, encode(x[1]).content
    for task in archive.tasks:
        yield {"Content-Type": RAW, "eidetic-task": task.name}, x[2].astype("<f4").tobytes()
    yield {"Content-Type": RAW, "eidetic-probabilities": "true"}, x[3].astype("<f4").tobytes()
    yield {"Content-Type": JSON, "x-request-id": "mine"}, b'{"data": [1, 2]}'
    yield {"Content-Type": JSON}, json.dumps({"data": [*one[:-1], 1e30]}).encode()
    yield {"Content-Type": JSON}, b"{"
    yield {"Content-Type": "text/plain"}, b"hello"
    yield {"Content-Type": RAW, "eidetic-task": "nobody"}, x[2].astype("<f4").tobytes()


def test_the_same_requests_get_the_same_bytes_from_both_engines(http, ray_http, archive, x):
    for headers, body in bodies(archive, np.asarray(x)):
        path = f"/predictions/{archive.name}"
        theirs, mine = (each.post(path, headers=headers, content=body) for each in (http, ray_http))
        assert (theirs.status_code, theirs.content) == (mine.status_code, mine.content), (headers, body[:100])
        if "x-request-id" in headers:
            assert theirs.headers["eidetic-request-id"] == mine.headers["eidetic-request-id"] == "mine"


def test_a_picture_gets_the_same_bytes_from_both_engines(http, ray_http, colours, tmp_path):
    spec = colours.bundle.input
    low, high = (0 if spec.low is None else spec.low), (1 if spec.high is None else spec.high)
    x = np.random.default_rng(0).uniform(low, high, spec.shape).astype(np.float32)
    found = [
        each.post("/predictions/colours", headers={"Content-Type": NPY}, content=encode(x).content)
        for each in (http, ray_http)
    ]
    assert found[0].status_code == 200
    assert found[0].content == found[1].content


def test_what_only_the_server_knows_is_told_as_with_any_engine(home, ray_http, archive):
    running = Running.read(home / "server.json")
    assert running.engine == "Ray Serve"
    assert httpx.get(f"{running.control}/ready", trust_env=False).text == "ready\n"
    counted = httpx.get(f"{running.control}/metrics", trust_env=False).text
    assert f'eidetic_workers{{model="{archive.name}",version="3.0"}} 1.0' in counted
    assert "eidetic_requests_total" in counted


def belonging(folder):
    found, mark = set(), f"{MARK}={folder}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.add(int(entry.name))
    return found


def test_a_supervisor_that_is_killed_leaves_no_process_and_nothing_of_ray_listens_beyond_this_machine(
    tmp_path,
):
    archive = small_archive(tmp_path / "net-1.0.mar")
    home = with_own_ports(tmp_path / "home")
    options = ("--engine=ray", f"--startup-seconds={START_SECONDS}")
    with ours(archive, home, *options, seconds=START_SECONDS) as server:
        folder = Running.read(home / "server.json").folder
        mine = belonging(folder)
        assert len(mine) > 5
        ports = {local for local, inode in listening() if inode in sockets(mine)}
        assert len(ports) > 5
        assert not [local for local in ports if not local.startswith(LOOPBACK)]
        os.kill(server.target.process, signal.SIGKILL)
        until(lambda: not belonging(folder))


def listening():
    """Address and inode of each socket, of IPv6 too."""
    for version in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{version}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                yield fields[1], fields[9]


def sockets(pids):
    found = set()
    for pid in pids:
        with suppress(OSError):  # it has ended
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                target = str(entry.readlink())
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found
