"""A version that decodes pictures in another way is refused, although every weight is the same."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest

from eideticnet.export.archive.reader import read_archive
from eideticnet.export.archive.writer import write_archive
from eideticnet.export.errors import ExportError
from eideticnet.export.proof.verify import verify
from tests.support.archived_networks import bundled, normalised
from tests.support.pictures import IMAGE, network

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return network(tmp_path_factory.mktemp("pictures") / "files")


@pytest.fixture(scope="module")
def usual(net, tmp_path_factory):
    return archive(net, tmp_path_factory.mktemp("usual"), "1.0")


def archive(net, folder, version, **options):
    bundle = folder / version
    bundle.mkdir()
    bundled(net, bundle, name="colours", model_version=version, **options)
    write_archive(bundle, ROOT / "handlers", folder / f"colours-{version}.mar")
    return folder / f"colours-{version}.mar"


@pytest.mark.parametrize(
    "changed",
    [replace(IMAGE, resize="none"), replace(IMAGE, scale=254.0), None],
    ids=["another filter", "another scale", "no pictures"],
)
def test_a_changed_decoding_of_pictures_is_refused(net, usual, tmp_path, changed):
    other = copy.deepcopy(net)
    other.inputs = replace(net.inputs, image=changed)
    report = verify(archive(other, tmp_path, "2.0"), usual)
    assert report.verdict == "refused"
    assert any("the input contract changed: image was" in problem for problem in report.reasons)


def test_the_same_decoding_of_pictures_is_proven(net, usual, tmp_path):
    assert verify(archive(net, tmp_path, "3.0"), usual).verdict == "proven"


def test_a_server_can_be_made_to_decode_more_pixels_and_later_versions_no_fewer(net, usual, tmp_path):
    more = archive(net, tmp_path, "2.0", max_pixels=20_000_000)
    assert read_archive(more).bundle.limits.max_pixels == 20_000_000
    assert verify(more, usual).verdict == "proven"
    (reason,) = verify(archive(net, tmp_path, "3.0", max_pixels=19_000_000), more).reasons[:1]
    assert "pixels" in reason
    assert any("--max-pixels 20000000" in reason for reason in verify(usual, more).reasons)
    with pytest.raises(ExportError, match="without it there are 262144"):
        archive(net, tmp_path, "4.0", max_pixels=262_143)
    with pytest.raises(ExportError, match="inputs are pictures"):
        archive(normalised(2), tmp_path, "5.0", max_pixels=300_000)
