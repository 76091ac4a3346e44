"""``eidetic serve`` in a process of its own, and requests to it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.forked import Running, code_of, eidetic
from tests.support.java_cache import quick_java
from tests.support.own_ports import with_own_ports
from tests.support.waiting import PATIENCE, until

ROOT = Path(__file__).parents[2]
MODEL = "net"


def serving(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """A command, to its end."""
    return eidetic(*arguments, changes=_quickly() if arguments[0] == "serve" else "").end()


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for yet doesn't."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def workers(frontend: int) -> list[psutil.Process]:
    """Those of a front end that run now, though others may end meanwhile."""
    found = []
    for process in psutil.Process(frontend).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "python" in process.name() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@contextmanager
def asleep(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """Workers that take requests and answer none."""
    assert processes
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # a test may have killed it
                process.resume()


def _quickly() -> str:
    return f"from eideticnet.serving.torchserve import process; process.JAVA_OPTIONS += {quick_java()}"


def changed(change: str = "") -> list[str]:
    """``eidetic`` whose Java starts quickly, in which ``change``, some Python, was run first."""
    return [sys.executable, "-c", f"{_quickly()}\n{change}\nfrom eideticnet.__main__ import main\nmain()"]


class Served:
    """A server that was started, after ``change``, some Python, and answers. A context manager: at its end
    nothing is left running."""

    def __init__(self, home: Path, *arguments: Any, change: str = "") -> None:
        self.home, self.log = home, home.parent / f"{home.name}.log"
        code = code_of(["serve", *arguments, "--home", with_own_ports(home)], f"{_quickly()}\n{change}")
        self.log.write_bytes(b"")
        self.process = Running(code, ROOT, [self.log, self.log], session=True)
        try:
            until(lambda: "Ctrl-C stops everything" in self.output() or self.process.poll() is not None)
            assert self.process.poll() is None, self.output()
        except BaseException:
            self.end()
            raise

    def output(self) -> str:
        return self.log.read_text()

    def tells_once(self, words: str) -> None:
        """It says so, and says no line again that has not changed."""
        told = [line for line in self.output().splitlines() if words in line]
        assert told
        assert all(line != before for before, line in pairwise(told)), told

    @property
    def running(self) -> dict[str, Any]:
        return dict(json.loads((self.home / "server.json").read_text()))

    def state(self) -> dict[str, Any]:
        return dict(json.loads((self.home / "state.json").read_text())["models"])

    def keys(self) -> dict[str, str]:
        return dict(json.loads((self.home / "keys.json").read_text()))

    def answers(self, request: Any) -> bool:
        """Whether a good answer comes. A request that TorchServe loses with its worker never gets one."""
        with suppress(httpx.TimeoutException):
            return self.predict(request, timeout=20).status_code == 200
        return False

    def predict(
        self,
        request: Any,
        version: str = "",
        timeout: float = PATIENCE,
        *,
        model: str = MODEL,
        **options: Any,
    ) -> httpx.Response:
        url = f"{self.running['inference']}/predictions/{model}" + (f"/{version}" if version else "")
        headers = {"Authorization": f"Bearer {self.keys()['inference']}"}
        return httpx.post(url, json=request, headers=headers, timeout=timeout, trust_env=False, **options)

    def manage(self, method: str, path: str, **parameters: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.keys()['management']}"}
        url = self.running["management"] + path
        return httpx.request(
            method, url, params=parameters, headers=headers, timeout=PATIENCE, trust_env=False
        )

    def held(self) -> dict[str, str]:
        """The versions that TorchServe holds, and the file of each."""
        response = self.manage("GET", f"/models/{MODEL}/all")
        return {v["modelVersion"]: v["modelUrl"] for v in response.json()} if response.is_success else {}

    def default(self) -> str:
        return str(self.manage("GET", f"/models/{MODEL}").json()[0]["modelVersion"])

    def waiting(self, version: str) -> int:
        """The length of a version's queue, without what its workers have taken out of it."""
        (held,) = self.manage("GET", f"/models/{MODEL}/{version}").json()
        return int(held["jobQueueStatus"]["pendingRequests"])

    def begin(self, pool: Executor, request: Any, version: str) -> list[Future[httpx.Response]]:
        """Requests sent in ``pool`` until one has to wait: the workers, which hang, hold the others."""
        begun: list[Future[httpx.Response]] = []

        def one_more() -> bool:
            begun.append(pool.submit(self.predict, request, version))
            # what was only on its way to a worker is there once the front end has answered this often
            return all(self.waiting(version) for _ in range(20))

        until(one_more)
        return begun

    def control(self, path: str) -> httpx.Response:
        return httpx.get(self.running["control"] + path, timeout=PATIENCE, trust_env=False)

    def command(self, name: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
        return serving(name, *arguments, "--home", self.home)

    def workers(self) -> list[psutil.Process]:
        return workers(self.running["frontend"])

    def replicas(self) -> list[psutil.Process]:
        """Those of Ray Serve that run now."""
        found = psutil.Process(self.running["frontend"]).children(recursive=True)
        return [each for each in found if " ".join(each.cmdline()).startswith("ray::ServeReplica")]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()
