"""A version that decodes pictures in another way is refused, although every weight is the same."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
from pictures import IMAGE, network

from export.archive import write_archive
from export.bundle import write_bundle
from export.verify import verify

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return network(tmp_path_factory.mktemp("pictures") / "files")


def archive(net, folder, version):
    bundle = folder / version
    bundle.mkdir()
    write_bundle(net, bundle, name="colours", model_version=version)
    write_archive(bundle, ROOT / "handlers", folder / f"colours-{version}.mar")
    return folder / f"colours-{version}.mar"


@pytest.mark.parametrize(
    "changed",
    [replace(IMAGE, resize="none"), replace(IMAGE, scale=254.0), None],
    ids=["another filter", "another scale", "no pictures"],
)
def test_a_changed_decoding_of_pictures_is_refused(net, tmp_path, changed):
    other = copy.deepcopy(net)
    other.inputs = replace(net.inputs, image=changed)
    old, new = archive(net, tmp_path, "1.0"), archive(other, tmp_path, "2.0")
    report = verify(new, old)
    assert report.verdict == "refused"
    assert any("the input contract changed: image was" in problem for problem in report.reasons)
    assert verify(archive(net, tmp_path, "3.0"), old).verdict == "proven"
