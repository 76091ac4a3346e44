"""Servers that serve nothing but what is signed by who is trusted."""

import json
import os
from pathlib import Path

import pytest

from eideticnet.export.archive.signature import fingerprint, read_trusted, sign, signature_of
from eideticnet.export.errors import ArchiveError
from eideticnet.serving.deploys.deploy import deploy, rollback
from eideticnet.serving.deploys.policy import Policy
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.state import State
from eideticnet.serving.home.store import admit, opened, remove_unneeded
from eideticnet.serving.supervise.launch import ServerOptions
from eideticnet.serving.supervise.start import prepared, started
from tests.support.own_ports import with_own_ports
from tests.support.pretended_engine import Pretended
from tests.support.served_process import Served, serving
from tests.support.signing_keys import copies, make_keys
from tests.support.waiting import PATIENCE

UNMEASURED = {"accept_unmeasured_routing": True}


@pytest.fixture
def copied(archives, versions, tmp_path):
    """``copied("1")``: a copy of that archive, which no other test signs."""
    return copies(archives | versions, tmp_path)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def trusted(keys):
    return read_trusted(keys / "ours.pub")


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path / "home")
    made.create()
    return made


@pytest.mark.parametrize(
    "how", ["none", "another archive's", "another key's", "nonsense", "empty", "pipe", "huge"]
)
def test_what_is_not_signed_by_who_is_trusted_is_refused_in_a_line_and_does_not_stay(
    how, copied, keys, trusted, home
):
    archive = copied("1", keys / ("theirs.key" if how == "another key's" else "ours.key"))
    signature, words = signature_of(archive), "its signature is of nobody who is trusted"
    if how in ("none", "pipe", "huge"):
        signature.unlink()
        words = "has no signature (1.mar.sig beside it)" if how == "none" else "can't be read: it "
    if how == "another archive's":
        signature.write_bytes(sign(copied("2"), keys / "ours.key").read_bytes())
        words = "its signature is of other bytes than these"
    elif how == "pipe":
        os.mkfifo(signature)
    elif how == "huge":
        with signature.open("wb") as file:
            file.truncate(1 << 30)
    elif how in ("nonsense", "empty"):
        signature.write_text("{}" if how == "nonsense" else "")
    with pytest.raises(ArchiveError) as error:
        admit(archive, home.store, allow_torch=False, trusted=trusted)
    assert words in str(error.value)
    assert str(archive) in str(error.value)
    assert "\n" not in str(error.value)
    assert list(home.store.iterdir()) == []


def test_the_signature_moves_with_its_archive_and_is_judged_at_each_load(copied, keys, trusted, home):
    """Whoever can write in the store can't replace archive, signature or both."""
    version = admit(copied("1", keys / "ours.key"), home.store, allow_torch=False, trusted=trusted).version
    stored = home.store / version.file
    remove_unneeded(home.store, State().replaced("net", version))
    assert {path.name for path in home.store.iterdir()} == {version.file, f"{version.file}.sig"}

    def load():
        return opened("net", version, home.store, allow_torch=False, trusted=trusted)

    assert load().version == "1.0"
    whole = signature_of(stored).read_bytes()
    sign(stored, keys / "theirs.key")
    with pytest.raises(ArchiveError, match="of nobody who is trusted"):
        load()
    signature_of(stored).unlink()
    with pytest.raises(ArchiveError, match="has no signature"):
        load()
    os.mkfifo(signature_of(stored))
    with pytest.raises(ArchiveError, match="it is a pipe"):
        load()
    signature_of(stored).unlink()
    signature_of(stored).write_bytes(whole)
    stored.write_bytes(copied("2", keys / "ours.key").read_bytes())
    with pytest.raises(ServingError, match="was changed after it was admitted"):
        load()
    remove_unneeded(home.store, State())
    assert list(home.store.iterdir()) == []


@pytest.fixture
def supervisor(copied, tmp_path):
    """All of a server of the unsigned version 1.0, on an engine that is a dictionary."""
    home = Home(with_own_ports(tmp_path / "served"))
    options = ServerOptions(Pretended(), startup_seconds=PATIENCE)
    with prepared(home, [copied("1.0")], options), started(home, options) as supervisor:
        yield supervisor


def test_who_must_sign_is_kept_with_what_is_served_for_every_later_deploy_and_rollback(
    supervisor, copied, keys, trusted
):
    server, policy = supervisor.server, Policy(**UNMEASURED, trusted=trusted)
    with pytest.raises(ArchiveError, match="has no signature"):
        list(deploy(server, copied("2.0"), policy))
    assert (server.state().trusted, server.state().models["net"].default.version) == ((), "1.0")
    list(deploy(server, copied("2.0", keys / "ours.key"), policy))
    assert server.state().trusted == trusted
    assert server.state().models["net"].default.version == "2.0"
    with pytest.raises(ArchiveError, match="has no signature"):
        list(rollback(server))
    with pytest.raises(ArchiveError, match="of nobody who is trusted"):
        list(deploy(server, copied("more", keys / "theirs.key"), Policy(**UNMEASURED, new_model=True)))
    list(deploy(server, copied("more", keys / "ours.key"), Policy(**UNMEASURED, new_model=True)))
    assert server.state().trusted == trusted
    assert server.state().without("more").trusted == trusted


def test_a_deploy_that_asks_for_signatures_and_fails_leaves_who_is_trusted_as_it_was(
    supervisor, copied, keys, trusted, monkeypatch
):
    """Else the unsigned version that goes on could never be started again."""

    def lost(*_):
        raise ServingError("no worker starts")

    monkeypatch.setattr(supervisor.server.engine, "scale", lost)
    policy = Policy(**UNMEASURED, trusted=trusted)
    with pytest.raises(ServingError, match="no worker starts"):
        list(deploy(supervisor.server, copied("2.0", keys / "ours.key"), policy))
    assert supervisor.server.state().trusted == ()
    assert supervisor.server.state().models["net"].default.version == "1.0"


def test_nobody_is_asked_for_while_another_model_could_not_be_started_again(
    supervisor, copied, keys, trusted
):
    server = supervisor.server
    policy = Policy(**UNMEASURED, new_model=True, trusted=trusted)
    with pytest.raises(ArchiveError, match=r"net-1\.0-\w+\.mar has no signature"):
        list(deploy(server, copied("more", keys / "ours.key"), policy))
    assert "trusted" not in json.loads(supervisor.home.state.read_text())  # written as it always was
    assert list(server.state().models) == ["net"]


def test_a_running_server_refuses_an_archive_without_the_signature_that_a_deploy_asks_for(
    server, copied, keys
):
    """The sample of what is tested below at length: nothing is deployed, and nobody is trusted."""
    refused = server.command(
        "deploy", copied("2", keys / "theirs.key"), "--require-signature", keys / "ours.pub"
    )
    assert refused.returncode == 1
    assert "its signature is of nobody who is trusted" in refused.stderr.replace("\n", " ")
    assert server.predict({"data": [0] * 6}).json()["model_version"] == "1.0"
    assert "trusted" not in json.loads(Path(server.home, "state.json").read_text())


@pytest.mark.slow
def test_a_server_that_requires_signatures_goes_on_requiring_them_whatever_it_is_told(copied, keys, tmp_path):
    home, ours = tmp_path / "home", ["--require-signature", keys / "ours.pub"]
    start = serving("serve", copied("1.0"), "--home", home, *ours)
    assert (start.returncode, "has no signature" in start.stderr.replace("\n", " ")) == (1, True)
    assert not home.exists()
    with Served(home, copied("1.0", keys / "ours.key"), *ours) as served:
        for archive in (copied("2.0"), copied("2.0", keys / "theirs.key")):
            assert served.command("deploy", archive).returncode == 1
        good = copied("2.0", keys / "ours.key")
        assert served.command("deploy", good, "--accept-unmeasured-routing").returncode == 0
        assert served.command("rollback").returncode == 0  # which was signed, too
        (pem,) = read_trusted(keys / "ours.pub")
        assert json.loads(served.command("status", "--json").stdout)["trusted"] == [fingerprint(pem)]
        default = Path(home / "store" / served.state()["net"]["default"]["file"])
    signature_of(default).unlink()  # by somebody who can write in the store
    again = serving("serve", "--home", home)
    assert (again.returncode, "has no signature" in again.stderr.replace("\n", " ")) == (1, True)
    sign(default, keys / "theirs.key")
    again = serving("serve", "--home", home)
    assert (again.returncode, "of nobody who is trusted" in again.stderr.replace("\n", " ")) == (1, True)
    with Served(home, "--require-signature", keys / "theirs.pub") as served:  # the operator trusts others now
        assert served.predict({"data": [0] * 6}).json()["model_version"] == "1.0"
        assert served.command("rollback").returncode == 1  # to what those have not signed


@pytest.mark.slow
def test_a_folder_from_elsewhere_is_served_only_if_its_archives_are_signed(copied, keys, tmp_path):
    with Served(tmp_path / "home", copied("1.0")):
        pass
    start = serving("serve", "--home", tmp_path / "home", "--require-signature", keys / "ours.pub")
    assert (start.returncode, "has no signature" in start.stderr.replace("\n", " ")) == (1, True)
    assert "trusted" not in json.loads((tmp_path / "home/state.json").read_text())
    with Served(
        tmp_path / "home", copied("1.0", keys / "ours.key"), "--require-signature", keys / "ours.pub"
    ):
        pass  # the signature of an archive that is served already comes with it
