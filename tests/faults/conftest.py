"""A server of two workers that the tests of one file harm in turn: each leaves it whole."""

import pytest

from tests.support.served_process import Served
from tests.support.smallest_archive import small_archives
from tests.support.waiting import until


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    return small_archives(tmp_path_factory.mktemp("archives"))


@pytest.fixture(scope="session")
def shared(archives, tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    with Served(folder / "home", archives["1"], archives["picture"], "--workers", 2) as running:
        yield running


@pytest.fixture
def server(shared):
    yield shared
    until(lambda: shared.control("/ready").status_code == 200)
