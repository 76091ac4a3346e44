"""TLS by configuration, over HTTP and gRPC, also for the server's own calls."""

import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest

from eideticnet.client import Client, GrpcClient
from eideticnet.serving.errors import DeadlineError, NoAnswerError, ServingError
from eideticnet.serving.torchserve.tls import check
from tests.support.grpc_management import GrpcManagement
from tests.support.served_process import Served
from tests.support.waiting import PATIENCE, until

ROW = {"data": [0] * 6}


@pytest.fixture(scope="module")
def server(archives, pair, tmp_path_factory):
    home = tmp_path_factory.mktemp("tls-server") / "home"
    with Served(home, archives["1"], "--tls-cert", pair[0], "--tls-key", pair[1]) as running:
        yield running


@pytest.fixture(scope="module")
def ports(server):
    """The port of each address, by its name."""
    names = ("inference", "management", "grpc_inference", "grpc_management")
    return {name: int(server.running[name].rpartition(":")[2]) for name in names}


def test_http_and_grpc_clients_verify_the_certificate_and_its_name(server, pair, ports):
    trust = ssl.create_default_context(cafile=pair[0])
    with Client(f"https://localhost:{ports['inference']}", server.home / "keys.json", verify=trust) as client:
        assert client.predict("net", ROW)["model_version"] == "1.0"
    target = f"localhost:{ports['grpc_inference']}"
    with GrpcClient(target, server.home / "keys.json", ca=pair[0]) as client:
        assert client.predict("net", ROW)["model_version"] == "1.0"
    management = GrpcManagement(
        f"localhost:{ports['grpc_management']}", server.home / "keys.json", ca=pair[0]
    )
    assert management.list_models()
    management.close()


def test_nothing_is_answered_without_tls_or_to_a_client_that_does_not_trust_the_certificate(server, ports):
    with pytest.raises(NoAnswerError, match="CERTIFICATE_VERIFY_FAILED"):
        with Client(f"https://localhost:{ports['inference']}", server.home / "keys.json") as client:
            client.predict("net", ROW)
    for name, port in ports.items():
        if not name.startswith("grpc"):
            for key in server.keys().values():
                headers = {"Authorization": f"Bearer {key}"}
                plain = httpx.get(
                    f"http://127.0.0.1:{port}/ping", headers=headers, timeout=PATIENCE, trust_env=False
                )
                assert (plain.status_code, "only accepts HTTPS" in plain.text) == (403, True)
    with pytest.raises(ServingError):
        with GrpcClient(f"localhost:{ports['grpc_inference']}", server.home / "keys.json") as client:
            client.predict("net", ROW, deadline=3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_versions_of_tls_are_refused_on_every_port(ports):
    def speaks(port, version):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.minimum_version = context.maximum_version = version
        try:
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as s, context.wrap_socket(s):
                return True
        except OSError:
            return False

    for name, port in ports.items():
        assert speaks(port, ssl.TLSVersion.TLSv1_2), name
        assert not speaks(port, ssl.TLSVersion.TLSv1), name
        assert not speaks(port, ssl.TLSVersion.TLSv1_1), name


def test_the_server_finds_itself_ready_and_deploys_over_tls(server, archives):
    until(lambda: server.control("/ready").status_code == 200)
    done = server.command("deploy", archives["picture"], "--new-model")
    assert done.returncode == 0, done.stderr
    assert '"picture"' in server.command("status", "--json").stdout


def test_a_key_that_torchserve_can_not_use_or_everybody_can_read_is_named(pair, tmp_path):
    certificate, key = pair
    assert check(certificate, key) == []
    copies = [tmp_path / name for name in ("open.pem", "other.pem", "old.pem", "locked.pem")]
    opened, other, old, locked = copies
    opened.write_bytes(key.read_bytes())
    opened.chmod(0o644)
    assert check(certificate, opened) == [f"{opened} can be read by every user of this machine: chmod o-r"]
    for command in (
        ["genrsa", "-out", other],
        ["rsa", "-in", key, "-traditional", "-out", old],
        ["pkcs8", "-topk8", "-in", key, "-passout", "pass:secret", "-out", locked],
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    with pytest.raises(ServingError, match="PKCS #8"):
        check(certificate, old)
    for bad in (other, locked, tmp_path / "none.pem"):
        with pytest.raises(ServingError, match="can't be used for TLS"):
            check(certificate, bad)


def test_a_deadline_ends_the_waiting_over_tls_on_a_connection_that_another_thread_began(pair):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)

    def answer_once_then_drip(listener):
        with suppress(OSError), context.wrap_socket(listener.accept()[0], server_side=True) as connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            connection.recv(1 << 16)
            while True:
                time.sleep(0.1)
                connection.sendall(b"H")

    trust = ssl.create_default_context(cafile=pair[0])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=answer_once_then_drip, args=(listener,))
        server.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with Client(url, "key", verify=trust, timeout=PATIENCE) as client, ThreadPoolExecutor(1) as pool:
            assert pool.submit(client.predict, "net", ROW).result() == {}
            started = time.monotonic()
            with pytest.raises(DeadlineError):
                client.predict("net", ROW, deadline=0.5)
            assert time.monotonic() - started >= 0.5
        server.join()  # who drips ends when nobody listens any more
