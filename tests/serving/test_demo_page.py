"""``eidetic demo`` in a real browser, beside a real server of the digits."""

import json
import shutil

import numpy as np
import pytest

from eideticnet import EideticNetwork
from eideticnet.export.archive.writer import write_archive
from eideticnet.export.bundle.writer import write_bundle
from tests.support.demo_page import NEEDS_CHROMIUM, DemoPage, address_in, browsing
from tests.support.served_process import Served
from tests.support.smallest_archive import ROOT
from tests.support.waiting import until

pytestmark = NEEDS_CHROMIUM
slow = pytest.mark.slow


def exported(net, folder, version):
    bundle = folder / f"bundle-{version}"
    bundle.mkdir()
    write_bundle(net, bundle, name="digits", model_version=version)
    return write_archive(bundle, ROOT / "handlers", folder / f"digits-{version}.mar")


@pytest.fixture(scope="module")
def stored(digits_run, tmp_path_factory):
    """A folder with the digits as version 3.0, and once more as 3.1."""
    folder, net = tmp_path_factory.mktemp("stored"), EideticNetwork.load(digits_run)
    exported(net, folder, "3.0")
    return folder


@pytest.fixture(scope="module")
def server(stored, tmp_path_factory):
    with Served(tmp_path_factory.mktemp("demo") / "home", stored / "digits-3.0.mar", "--demo") as running:
        until(lambda: "open http" in running.output())
        yield running


@pytest.fixture(scope="module")
def address(server):
    """Of the page that ``serve --demo`` has started."""
    return address_in(server.output())


def test_a_drawn_stroke_gives_a_label_with_its_task_version_and_milliseconds(address):
    with browsing(address) as page:
        page.draw("1")
        page.says("It is 1, of the task 0 or 1")
        assert "version 3.0" in page.answer()
        assert "ms" in page.answer()
        assert page.tab.locator("#tasks").inner_text().count("%") == 3
        assert page.tab.locator("#labels").inner_text().count("%") == 2
        assert page.complaints == []
        assert {host.partition(":")[0] for host in page.hosts} == {"127.0.0.1"}
