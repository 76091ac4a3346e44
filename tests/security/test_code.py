"""No code comes from an archive but our handler, and what was checked is what is loaded."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from eideticnet.export.errors import ArchiveError
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.state import State
from eideticnet.serving.home.store import admit, opened
from tests.support.served_process import Served, serving


@pytest.fixture
def pickled(make_archive, tmp_path):
    """An archive that claims TorchScript; what is in it is never loaded here."""

    def files(held):
        held["model.pt"] = held.pop("model.onnx")

    return make_archive(
        tmp_path / "pickled.mar", lambda b: b.update(format="torchscript", model="model.pt", name="pt"), files
    )


@pytest.fixture
def trusted(pickled, tmp_path):
    """A home that was allowed to serve it."""
    home = Home(tmp_path / "trusted")
    home.create()
    version = admit(pickled, home.store, allow_torch=True).version
    State().replaced("pt", version).write(home.state)
    return home, version


def test_pickled_archives_are_refused_at_start_and_at_deploy(pickled, server, tmp_path):
    words = "which can run any code"
    start = serving("serve", pickled, "--home", tmp_path / "fresh")
    assert start.returncode == 1
    assert words in start.stderr.replace("\n", " ")
    deploy = server.command("deploy", pickled)
    assert deploy.returncode == 1
    assert words in deploy.stderr.replace("\n", " ")


def test_a_pickled_archive_that_was_trusted_once_is_judged_anew(trusted):
    home, version = trusted
    assert opened(version.file.partition("-")[0], version, home.store, allow_torch=True).name == "pt"
    with pytest.raises(ServingError, match="which can run any code"):
        opened(version.file.partition("-")[0], version, home.store, allow_torch=False)


@pytest.mark.slow
def test_a_restart_without_the_permission_refuses_what_was_served_with_it(trusted):
    again = serving("serve", "--home", trusted[0].root)
    assert again.returncode == 1
    assert "which can run any code" in again.stderr.replace("\n", " ")


CODE = b"raise SystemExit('this ran')\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("eidetic_handler.py", "not of a released handler"),
        ("eidetic_more.py", "not of a released handler"),
        ("sitecustomize.py", "it holds 'sitecustomize.py'"),
        ("requirements.txt", "it holds 'requirements.txt'"),
        ("numpy.py", "it holds 'numpy.py'"),
    ],
)
def test_code_and_requirements_in_an_archive_are_refused_by_the_running_server(
    make_archive, server, tmp_path, name, words
):
    archive = make_archive(
        tmp_path / "bad.mar", lambda b: b.update(name="bad"), lambda held: held.update({name: CODE})
    )
    deployed = server.command("deploy", archive)
    assert deployed.returncode == 1
    assert words in deployed.stderr.replace("\n", " ")
    assert server.predict({"data": [0] * 6}).json()["model_version"] == "1.0"


def test_torchserve_is_told_to_install_nothing(server):
    config = Path(server.running["folder"]) / "config.properties"
    assert "install_py_dep_per_model=false" in config.read_text().splitlines()


def test_the_bytes_that_were_checked_are_served_whatever_becomes_of_the_source(archives, tmp_path):
    home = Home(tmp_path / "home")
    home.create()
    source, link = tmp_path / "source.mar", tmp_path / "link.mar"
    source.write_bytes(archives["1"].read_bytes())
    link.symlink_to(source)
    version = admit(link, home.store, allow_torch=False).version
    source.write_bytes(archives["2"].read_bytes())
    stored = home.store / version.file
    assert not stored.is_symlink()
    assert sha256(stored.read_bytes()).hexdigest() == version.sha256
    assert opened(version.file.partition("-")[0], version, home.store, allow_torch=False).version == "1.0"


@pytest.mark.parametrize("how", ["link", "other bytes", "folder"])
def test_a_file_put_in_the_place_of_a_stored_one_is_refused(archives, tmp_path, how):
    home = Home(tmp_path / "home")
    home.create()
    version = admit(archives["1"], home.store, allow_torch=False).version
    stored = home.store / version.file
    stored.unlink()
    if how == "link":
        stored.symlink_to(archives["2"])
    elif how == "folder":
        stored.mkdir()
    else:
        stored.write_bytes(archives["2"].read_bytes())
    with pytest.raises((ServingError, ArchiveError)):
        opened(version.file.partition("-")[0], version, home.store, allow_torch=False)


@pytest.mark.slow
def test_a_server_whose_stored_archive_was_replaced_does_not_start(archives, tmp_path):
    home = tmp_path / "home"
    with Served(home, archives["1"]) as served:
        stored = home / "store" / served.state()["net"]["default"]["file"]
    stored.write_bytes(archives["2"].read_bytes())
    again = serving("serve", "--home", home)
    assert again.returncode == 1
    assert "was changed after it was admitted" in again.stderr.replace("\n", " ")
    assert json.loads((home / "state.json").read_text())["models"]["net"]["default"]["version"] == "1.0"
