"""Ray Serve on two nodes of this machine, as the engine of a real server: nothing of it is pretended."""

from pathlib import Path

import httpx
import pytest

from benchmarks.ray_faults import (
    RETRIES,
    WORKERS,
    Load,
    controller_killed,
    node_added,
    node_removed,
    replica_killed,
    served,
)
from benchmarks.raylets import WORKER
from eideticnet.client import Client
from eideticnet.export.archive.reader import read_archive
from eideticnet.serving.deploys.connection import connect
from eideticnet.serving.deploys.deploy import deploy, remove, rollback
from eideticnet.serving.deploys.policy import Policy
from eideticnet.serving.engine import EngineError
from eideticnet.serving.errors import RequestError, ServingError
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.state import State
from eideticnet.serving.questions import example
from tests.support.own_ports import with_own_ports
from tests.support.smallest_archive import small_archive
from tests.support.waiting import PATIENCE

POLICY = Policy(accept_unmeasured_routing=True)


@pytest.fixture(scope="module")
def at(versions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    with_own_ports(folder / "home")
    with served(versions["1.0"], folder) as found:
        yield found


@pytest.fixture
def server(at):
    with connect(Home(at.server.home), at.running) as found:
        yield found


def load(at, versions):
    running = at.running
    return Load(running.inference, Path(running.keys), "net", example(read_archive(versions["1.0"])))


def default(server):
    return server.management.model("net").default


def test_a_version_takes_over_on_two_nodes_and_no_request_is_lost(at, server, versions):
    before = at.replicas()
    with load(at, versions) as seen:
        list(deploy(server, versions["2.0"], POLICY))
        list(rollback(server))
    assert len(before) == WORKERS
    assert at.replicas() == before
    assert seen.failed == {}
    assert seen.versions == {"1.0", "2.0"}
    assert default(server) == "1.0"


def test_a_replica_that_is_killed_costs_no_client_an_answer_that_tries_again(at, versions):
    with load(at, versions) as seen:
        replica_killed(at)
    assert RETRIES not in seen.failed
    assert seen.versions == {"1.0"}


@pytest.mark.slow
def test_a_version_that_a_replica_can_not_load_leaves_the_old_one_and_the_deploy_says_why(
    at, server, versions
):
    before, steps = State.load(server.home.state), deploy(server, versions["2.0"], POLICY)
    with load(at, versions) as seen:
        assert next(steps).name == "admit"
        (stored,) = server.home.store.glob("net-2.0-*.mar")
        stored.write_bytes(versions["3.0"].read_bytes())
        with pytest.raises(ServingError, match=r"net 2\.0 can't be held: .* has SHA-256"):
            list(steps)
    assert seen.failed == {}
    assert seen.versions == {"1.0"}
    assert State.load(server.home.state) == before
    assert set(server.management.model("net").versions) == {"1.0"}


@pytest.mark.slow
def test_a_model_comes_beside_the_others_and_goes_again(at, server, tmp_path):
    other = small_archive(tmp_path / "other-1.0.mar", lambda bundle: bundle.update(name="other"))
    list(deploy(server, other, Policy(new_model=True)))
    asked = {"url": at.running.inference, "key": Path(at.running.keys), "timeout": PATIENCE}
    with Client(**asked) as client:
        (answer,) = client.predict("other", example(read_archive(other)))
        assert answer.model_version == "1.0"
        list(remove(server, "other"))
        with pytest.raises(RequestError, match="no model 'other' is served here"):
            client.predict("other", example(read_archive(other)))
    assert set(server.management.models()) == {"net"}


@pytest.mark.slow
def test_the_host_takes_orders_from_who_knows_its_key_alone(at, server):
    running = at.running
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        answer = httpx.post(f"{running.management}/models", json={}, headers=headers, trust_env=False)
        assert answer.status_code == 401
    with pytest.raises(EngineError, match="Ray refused set_default"):
        server.management.set_default("net", "7.0", seconds=2)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [controller_killed, node_removed, node_added])
def test_what_else_a_cluster_may_lose_costs_no_client_an_answer_that_tries_again(at, versions, fault):
    with load(at, versions) as seen:
        fault(at)
    assert RETRIES not in seen.failed
    assert len(at.replicas()) == WORKERS
    assert WORKER in at.cluster.nodes or fault is node_removed
