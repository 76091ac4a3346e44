"""Who can reach management, and what its key can do."""

import json
import socket
import struct
import threading
import zipfile
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import psutil
import pytest

from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.home import Home
from tests.support.grpc_management import GrpcManagement
from tests.support.waiting import PATIENCE, until


@pytest.fixture
def elsewhere():
    """A web server that notes what it was asked for."""
    asked = []

    class Noting(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Noting)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_all_ports_of_all_its_processes_are_on_loopback_unless_said_otherwise(server):
    top = psutil.Process(server.running["pid"])
    found = [
        c.laddr
        for process in [top, *top.children(recursive=True)]
        for c in process.net_connections("inet")
        if c.status == psutil.CONN_LISTEN or not c.raddr
    ]
    assert len({address.port for address in found}) == 5
    assert {address.ip.removeprefix("::ffff:") for address in found} == {"127.0.0.1"}


def test_no_archive_comes_from_a_url_or_a_path_and_none_is_copied_into_the_store(server, archives, elsewhere):
    """Each address is tried twice: once refused, a file may still have been left in the store."""
    url, asked = elsewhere
    store, outside = (server.home / "store").resolve(), archives["2"]
    steps = "../" * len(store.parts)
    urls = [
        f"{url}/2.mar",
        f"{url}/?file://{store}/2.mar",
        "file:///etc/passwd",
        outside.as_uri(),
        f"file://{store}/{steps}{outside}",
        f"file://{store}/{'%2e%2e/' * len(store.parts)}{outside}",
        f"file://{store}x/2.mar",
        f"../{outside.name}",
        str(outside),
        outside.name,
        "s3://bucket/2.mar",
        "ftp://127.0.0.1/2.mar",
        "jar:file:///x.jar!/2.mar",
    ]
    before = set(store.iterdir())
    with Home(server.home).changing():
        for each in urls * 2:
            for path in ("/models", "/workflows"):
                assert server.manage("POST", path, url=each).status_code >= 400, (path, each)
        with_key = server.keys()["management"]
        management = GrpcManagement(server.running["grpc_management"], with_key)
        for each in urls:
            with pytest.raises(ServingError):
                management.register(each)
        management.close()
        assert set(server.held()) == {"1.0"}
        assert set(store.iterdir()) == before
    assert asked == []


def test_what_was_registered_behind_the_servers_back_is_gone_in_seconds(server, archives, tmp_path):
    with zipfile.ZipFile(archives["2"]) as archive:
        archive.extractall(tmp_path / "folder")
    """TorchServe takes a folder of this machine for an archive, which no setting forbids."""
    with Home(server.home).changing():
        loaded = server.manage("POST", "/models", url=str(tmp_path / "folder"), initial_workers=1)
        assert loaded.status_code == 200
        assert set(server.held()) == {"1.0", "2.0"}
    until(lambda: set(server.held()) == {"1.0"})
    assert server.default() == "1.0"


def test_a_stranger_is_gone_whatever_its_name_and_takes_no_other_model_with_it(server, archives, tmp_path):
    """``net/1.0`` is no version of ``net``, though a path that TorchServe has decoded says so."""
    with zipfile.ZipFile(archives["2"]) as archive:
        archive.extractall(tmp_path / "folder")
    names = ["a%3Fb", "../evil", "net/1.0", "..", "n" * 5000]
    headers = {"Authorization": f"Bearer {server.keys()['management']}"}
    with Home(server.home).changing():
        for name in names:
            body = {"url": str(tmp_path / "folder"), "model_name": name, "initial_workers": 0}
            answer = httpx.post(
                f"{server.running['management']}/models",
                json=body,
                headers=headers,
                timeout=PATIENCE,
                trust_env=False,
            )
            assert answer.status_code == 200, (name, answer.text)

    def models():
        found = server.manage("GET", "/models", limit=100).json()["models"]
        return {model["modelName"] for model in found}

    assert set(names) < models()
    until(lambda: models() == {"net", "picture"})
    assert set(server.held()) == {"1.0"}


def test_a_request_to_the_control_port_that_is_broken_off_writes_no_log(server):
    before = server.output()
    host, port = server.running["control"].removeprefix("http://").split(":")
    for sent in (
        b"",
        b"GET /met",
        b"GET /metrics HTTP/1.1\r\n\r\n" * 9,
        b"\xff\x00\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
    ):
        for _ in range(5):
            with socket.create_connection((host, int(port))) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.sendall(sent)  # and closing it is a reset
    until(lambda: server.control("/ready").status_code == 200)
    written = server.output().removeprefix(before).splitlines()
    assert [line for line in written if "ready" not in line] == []


def test_connections_that_nobody_uses_cost_the_supervisor_few_descriptors_and_keep_nobody_waiting(server):
    """Without descriptors it could not watch TorchServe, and would take it for dead."""
    host, port = server.running["control"].removeprefix("http://").split(":")
    supervisor = psutil.Process(server.running["pid"])
    before = supervisor.num_fds()
    with ExitStack() as held:
        for _ in range(300):
            connection = held.enter_context(socket.create_connection((host, int(port)), PATIENCE))
            with suppress(OSError):  # it was let go already
                connection.sendall(b"GET /live HTTP/1.1\r\nx: ")
        until(lambda: server.control("/ready").status_code == 200)
        assert supervisor.num_fds() - before < 100


@pytest.mark.parametrize("path", ["/live", "/ready", "/metrics", "/openapi.json", "/else"])
def test_the_control_port_answers_head_like_get_without_the_body(server, path):
    host, port = server.running["control"].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as connection:
        connection.sendall(f"HEAD {path} HTTP/1.1\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: connection.recv(1 << 16), b"")).partition(b"\r\n\r\n")
    assert body == b""
    assert int(head.split()[1]) == server.control(path).status_code
    refused = httpx.post(server.running["control"] + "/metrics", timeout=PATIENCE, trust_env=False)
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


def test_the_control_port_tells_no_key_no_path_and_no_version_of_software(server):
    for path in ("/live", "/ready", "/metrics", "/openapi.json", "/else", "/%0d%0aX: y"):
        answer = server.control(path)
        told = answer.text + str(answer.headers)
        assert answer.headers["server"] == "eidetic"
        assert not [w for w in ("Python", str(server.home), *server.keys().values()) if w in told], path
    broken = httpx.request("A" * 70_000, server.running["control"], timeout=PATIENCE, trust_env=False)
    assert "Python" not in broken.text + str(broken.headers)


def test_answers_carry_only_headers_that_are_known(server):
    known = {"content-type", "content-length", "connection", "x-request-id"}
    known |= {"pragma", "cache-control", "expires"}
    for row in ({"data": [0] * 6}, {"data": []}):
        assert set(server.predict(row).headers) <= known


def test_only_the_owner_may_write_in_the_home_and_read_what_is_secret_in_it(server):
    assert server.home.stat().st_mode & 0o777 == 0o755  # it was there before, open to all
    for name in ("store", "reports", "logs", "metrics", "rings", "compiled"):
        assert (server.home / name).stat().st_mode & 0o777 == 0o700
    for path in (server.secrets, server.home / "authorization.txt"):
        assert path.stat().st_mode & 0o777 == 0o600
    private = Path(json.loads((server.home / "server.json").read_text())["folder"])
    assert private.stat().st_mode & 0o777 == 0o700
    assert (private / "key_file.json").stat().st_mode & 0o777 == 0o600
