"""What a server is to serve when it starts: what it served before, and archives that are new to it."""

import pytest

from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.store import remove_unneeded
from eideticnet.serving.supervise.start import adopt
from tests.support.served_process import serving


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home")
    home.create()
    return home


def started(home, *archives, **options):
    """What a start does to the home; the default version after it."""
    state, notes = adopt(home, archives, **options)
    state.write(home.state)
    remove_unneeded(home.store, state)
    return state.models["net"].default.version, notes


def test_an_empty_home_needs_an_archive_and_then_none(home, versions):
    with pytest.raises(ServingError, match="nothing was ever served"):
        started(home)
    assert started(home, versions["1.0"]) == ("1.0", [])
    assert started(home) == ("1.0", [])


def test_another_archive_of_a_model_that_is_served_is_refused_each_time_and_deploy_is_named(home, versions):
    started(home, versions["1.0"])
    for _ in range(2):
        with pytest.raises(ServingError, match=f"eidetic deploy {versions['2.0']}"):
            started(home, versions["2.0"])
        assert started(home) == ("1.0", [])


def test_an_archive_that_this_home_had_never_takes_the_place_of_what_came_after_it(home, versions):
    started(home, versions["1.0"])
    assert started(home, versions["2.0"], replace=True)[0] == "2.0"
    assert started(home, versions["3.0"], replace=True)[0] == "3.0"
    for replace in (True, False):
        version, (note,) = started(home, versions["1.0"], replace=replace)
        assert version == "3.0"
        assert note == "net goes on with version 3.0, which came after net-1.0.mar"


def test_another_archive_of_the_same_version_replaces_it_and_can_not_be_rolled_back(home, versions, namesake):
    started(home, versions["1.0"])
    state, _ = adopt(home, [namesake], replace=True)
    assert state.models["net"].default.version == "1.0"
    assert state.models["net"].previous is None


def test_two_archives_of_one_model_are_refused(home, versions):
    with pytest.raises(ServingError, match="both of model net"):
        started(home, versions["1.0"], versions["2.0"])


@pytest.mark.parametrize("command", [["stop"], ["deploy", "x.mar"], ["rollback"]])
def test_commands_say_so_where_no_server_runs(command, tmp_path):
    done = serving(*command, "--home", tmp_path)
    assert done.returncode == 1
    assert f"no server runs in {tmp_path}" in done.stderr
    assert serving("status", "--home", tmp_path).returncode == 3
