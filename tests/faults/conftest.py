"""A server of two workers that the tests of one file harm in turn: each leaves it whole."""

import pytest
from served import Served, until
from small import small_archive, takes_pictures


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    """ "1" and "2" are versions of "net"; "picture" takes images."""
    folder = tmp_path_factory.mktemp("archives")
    return {
        "1": small_archive(folder / "1.mar", lambda b: b.update(name="net")),
        "2": small_archive(folder / "2.mar", lambda b: b.update(name="net", model_version="2.0")),
        "picture": small_archive(folder / "picture.mar", takes_pictures),
    }


@pytest.fixture(scope="session")
def shared(archives, tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    with Served(folder / "home", archives["1"], archives["picture"], "--workers", 2) as running:
        yield running


@pytest.fixture
def server(shared):
    yield shared
    until(lambda: shared.control("/ready").status_code == 200, 30)
