"""All of serving but its engine runs on another engine, which knows the three protocols alone."""

import json
import shutil
import sys
import threading
from collections import Counter
from functools import partial
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from eideticnet.export.archive import contents, reader
from eideticnet.export.archive.reader import read_files
from eideticnet.export.archive.releases import RELEASES, check_released, revoke
from eideticnet.export.errors import ArchiveError
from eideticnet.export.proof import verify as proof
from eideticnet.serving.default_engine import engine_called, engine_named
from eideticnet.serving.deploys.deploy import deploy, remove, rollback
from eideticnet.serving.deploys.policy import Policy
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home import store
from eideticnet.serving.home.addresses import Network
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.state import State
from eideticnet.serving.supervise.launch import ServerOptions
from eideticnet.serving.supervise.start import _adopted, prepared, started
from tests.support.archived_networks import edited
from tests.support.own_ports import own_ports, with_own_ports
from tests.support.pretended_engine import Pretended
from tests.support.smallest_archive import flat_handler
from tests.support.waiting import PATIENCE, until

POLICY = Policy(accept_unmeasured_routing=True)


@pytest.fixture
def supervisor(versions, tmp_path):
    home = Home(with_own_ports(tmp_path / "home"))
    options = ServerOptions(Pretended(), workers=2, startup_seconds=PATIENCE)
    with prepared(home, [versions["1.0"]], options), started(home, options) as supervisor:
        yield supervisor


def served(supervisor):
    """By version, how many workers; and which is the default."""
    model = supervisor.server.management.model("net")
    return model.default, {label: held.ready for label, held in model.versions.items()}


def test_versions_take_over_go_back_and_are_removed_on_an_engine_that_is_a_dictionary(supervisor, versions):
    server, engine = supervisor.server, supervisor.options.engine
    assert served(supervisor) == ("1.0", {"1.0": 2})
    steps = [step.name for step in deploy(server, versions["2.0"], POLICY)]
    order = ["admit", "prove", "register", "probe", "commit", "set-default", "drain", "unregister"]
    assert [step for step in order if step in steps] == order
    assert served(supervisor) == ("2.0", {"2.0": 2})
    assert engine.asked[-2:] == [("set_default", "net", "2.0"), ("drain", "net", "1.0")]
    list(rollback(server))
    assert served(supervisor) == ("1.0", {"1.0": 2})
    with pytest.raises(ServingError, match="the only model here"):
        list(remove(server, "net"))


def test_what_may_not_take_over_leaves_another_engine_as_it_was(supervisor, forgetful, namesake):
    before = State.load(supervisor.home.state)
    for archive, words in (
        (forgetful, "does not keep what the old one does"),
        (namesake, "Pretended can't hold two of one version"),
    ):
        with pytest.raises(ServingError, match=words):
            list(deploy(supervisor.server, archive, POLICY))
        assert served(supervisor) == ("1.0", {"1.0": 2})
        assert State.load(supervisor.home.state) == before


def test_what_has_a_revoked_handler_is_replaced_and_never_comes_back(
    supervisor, versions, tmp_path, monkeypatch
):
    listed = Path(shutil.copy(RELEASES, tmp_path / "handlers.json"))
    monkeypatch.setattr(contents, "check_released", partial(check_released, listed=listed))
    server, flat = supervisor.server, edited(versions["2.0"], tmp_path / "2.mar", files=flat_handler)
    list(deploy(server, flat, POLICY))
    revoke(sha256(read_files(flat)[1]["eidetic_answer.py"]).hexdigest(), "it has a hole", listed)
    list(deploy(server, versions["3.0"], POLICY))
    assert served(supervisor) == ("3.0", {"3.0": 2})
    for attempt in (lambda: deploy(server, flat, POLICY), lambda: rollback(server)):
        with pytest.raises((ArchiveError, ServingError), match="its handler was revoked: it has a hole"):
            list(attempt())
        assert served(supervisor) == ("3.0", {"3.0": 2})
    revoke(sha256(read_files(versions["3.0"])[1]["eidetic_handler.py"]).hexdigest(), "so has this", listed)
    with pytest.raises(ArchiveError, match="its handler was revoked: so has this"):
        _adopted(supervisor.home, [], supervisor.options, replace=False)


def test_another_engine_is_watched_restarted_and_told_of_by_its_name(supervisor, caplog):
    control = supervisor.server.running.control
    until(lambda: httpx.get(f"{control}/ready", timeout=PATIENCE, trust_env=False).text == "ready\n")
    assert (
        "How often Pretended was started again"
        in httpx.get(f"{control}/metrics", timeout=PATIENCE, trust_env=False).text
    )
    document = httpx.get(f"{control}/openapi.json", timeout=PATIENCE, trust_env=False).json()
    assert document["components"]["schemas"]["FrontEndError"] == {"type": "null"}
    before = supervisor.process.pid
    supervisor.process.end()
    supervisor.run(lambda: supervisor.process.pid != before)
    assert served(supervisor) == ("1.0", {"1.0": 2})
    assert "Pretended ended: it is started again" in caplog.text
    assert json.loads(supervisor.home.running.read_text())["frontend"] == supervisor.process.pid


def test_an_engine_is_chosen_by_its_name_and_one_that_is_not_installed_says_which_extra_has_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ServingError, match=r"Ray is not installed here: pip install 'eideticnet\[ray\]'"):
        engine_named("ray").check(Network())
    with pytest.raises(ServingError, match="--address is of a cluster: it takes --engine ray"):
        engine_named("torchserve", address="10.0.0.5:6379")
    names = [engine_called(name).name for name in ("", "TorchServe", "Ray Serve")]
    assert names == ["TorchServe", "TorchServe", "Ray Serve"]


class Full(Pretended):
    def hold(self, name, version, profile):
        raise ServingError("no room for it")


def test_a_first_start_that_fails_late_leaves_no_home_and_a_later_one_leaves_it_as_it_was(versions, tmp_path):
    home = Home(tmp_path / "home")
    ports = {use: port for use, port in own_ports().model_dump().items() if use != "grpc_management"}

    def fails():
        options = ServerOptions(Full(), startup_seconds=PATIENCE, ports=ports)
        with (
            pytest.raises(ServingError, match="no room for it"),
            prepared(home, [versions["1.0"]], options),
            started(home, options),
        ):
            pass

    fails()
    assert not home.root.exists()
    options = ServerOptions(Pretended(), startup_seconds=PATIENCE, ports=ports)
    with prepared(home, [versions["1.0"]], options), started(home, options):
        pass
    before = home.state.read_bytes()
    fails()
    assert home.state.read_bytes() == before


def test_a_server_that_stops_takes_no_more_work_on_any_engine(versions, tmp_path):
    home = Home(with_own_ports(tmp_path / "home"))
    options = ServerOptions(Pretended(), startup_seconds=PATIENCE, stop_seconds=0)
    with prepared(home, [versions["1.0"]], options), started(home, options) as supervisor:
        process = supervisor.process
    assert not process.running
    assert options.engine.asked[-2:] == [("set_default", "net", "_stopping"), ("drain", "net", "1.0")]


def test_a_deploy_reads_and_checks_its_new_archive_once(supervisor, versions, monkeypatch):
    """What engine and watch read, as other processes do, is read in other threads here."""
    read, deploying = Counter(), threading.current_thread()

    def counted(module, name):
        true = getattr(module, name)

        def once_more(path, *arguments):
            if threading.current_thread() is deploying:
                read[path.name.partition("-2.0")[1]] += 1
            return true(path, *arguments)

        monkeypatch.setattr(module, name, once_more)

    counted(reader, "read_members")
    counted(store, "file_hash")
    counted(proof, "file_hash")
    steps = list(deploy(supervisor.server, versions["2.0"], POLICY))
    (report,) = [step.found["proof"] for step in steps if step.proof]
    assert report["new"]["sha256"] == State.load(supervisor.home.state).models["net"].default.sha256
    assert read["-2.0"] == 1
