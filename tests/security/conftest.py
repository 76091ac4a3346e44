"""Servers of the smallest archive, with today's handler."""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack

import pytest

from eideticnet.serving.edge.options import edge_for
from eideticnet.serving.edge.process import Edge
from eideticnet.serving.home.addresses import Network, Ports
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.running import Keys
from tests.serving.conftest import versions  # noqa: F401 - archives that can be proven
from tests.support.own_ports import own_ports
from tests.support.served_process import Served
from tests.support.smallest_archive import small_archive, small_archives
from tests.support.waiting import PATIENCE


@pytest.fixture(scope="session")
def make_archive():
    """``make_archive(path, bundle, files)``: the small archive, edited before its sums are taken."""
    return small_archive


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    """ "1" and "2" are versions of "net"; "picture" takes images; "more" is another model."""
    folder = tmp_path_factory.mktemp("archives")
    more = small_archive(folder / "more.mar", lambda b: b.update(name="more"))
    return {**small_archives(folder), "more": more}


@pytest.fixture(scope="session")
def server(archives, tmp_path_factory):
    """A server of "net" and "picture" whose keys lie where an operator mounted them."""
    folder = tmp_path_factory.mktemp("secured")
    (folder / "home").mkdir(mode=0o777)
    (folder / "home").chmod(0o777)
    secrets = folder / "secrets/keys.json"
    with Served(
        folder / "home", archives["1"], archives["picture"], "--keys", secrets, "--record", 10
    ) as running:
        running.keys = lambda: json.loads(secrets.read_text())
        running.secrets = secrets
        yield running


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """A self-signed certificate for this machine, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    files = [folder / "cert.pem", folder / "key.pem"]
    subprocess.run(
        [*command, "-addext", names, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True
    )
    files[1].chmod(0o600)
    return files


@pytest.fixture(scope="session")
def make_edge(server, tmp_path_factory):
    """``make_edge(network, ...)``: an edge before ``server``, which goes on answering without it too; with
    ``ready=False`` it is yet to be told of it."""
    with ExitStack() as stack:

        def make(network=Network(), ready=True, **wanted):
            home = Home(tmp_path_factory.mktemp("edge") / "home")
            home.create()
            options = edge_for(network, True, wheel_tls=True, **wanted)
            edge = Edge(home, options, network, own_ports(), home.keys, lambda: True, PATIENCE)
            stack.enter_context(edge)
            uses = Ports.model_fields.keys() - {"control"}
            inner = {use: int(server.running[use].rpartition(":")[2]) for use in uses}
            edge.inner = Ports(**inner, control=1)
            if ready:
                edge.pass_to(edge.inner, Keys(**server.keys()))
            return edge

        yield make


@pytest.fixture(scope="session")
def edge(make_edge):
    return make_edge(cors=["https://page.example", "http://localhost:3000"])
