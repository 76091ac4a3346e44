"""``verify`` gives a verdict on any archive: older ones, and ones whose bundle.json holds anything."""

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eideticnet.export.archive.delta import apply_delta, write_delta
from eideticnet.export.archive.reader import read_archive, read_files
from eideticnet.export.errors import ArchiveError
from eideticnet.export.proof.verify import verify
from tests.support.archived_networks import archived, edited, normalised
from tests.support.smallest_archive import FLAT, flat_handler, small_archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return archived(normalised(2), tmp_path_factory.mktemp("archive") / "net", prefixes=[1])


def without_what_came_later(bundle):
    """As schema 1.0 had it."""
    bundle["schema"] = "1.0.0"
    for key in ("layout", "precision", "routing", "tools", "superseded"):
        del bundle[key]
    for task in bundle["tasks"]:
        del task["revision"], task["digest"], task["network_digest"]


def test_archives_of_an_older_schema_are_not_comparable(archive, tmp_path):
    old = edited(archive, tmp_path / "old.mar", bundle=without_what_came_later, files=flat_handler)
    for new, against in ((archive, old), (old, archive), (old, old)):
        found = verify(new, against)
        assert found.verdict == "not comparable"
        assert {f"{old} is of schema 1.0.0, which lacks what a proof needs: export it again"} == set(
            found.reasons
        )


def test_an_archive_with_a_released_flat_handler_is_read():
    read, files = read_files(FLAT)
    assert read.bundle.schema_version == "1.4.0"
    assert "eidetic_request.py" in files


def test_an_archive_with_a_released_flat_handler_is_compared_with_todays(archive, tmp_path):
    before = {"bundle": lambda b: b.update(schema="1.4.0"), "files": flat_handler}
    old = edited(archive, tmp_path / "old.mar", **before)
    assert [verify(archive, old).verdict, verify(old, archive).verdict] == ["proven", "proven"]
    write_delta(old, archive, tmp_path / "new.delta")
    apply_delta(old, tmp_path / "new.delta", tmp_path / "again.mar")
    assert (tmp_path / "again.mar").read_bytes() == archive.read_bytes()


def test_a_handler_in_a_folder_is_refused_where_the_schema_has_none(tmp_path):
    with pytest.raises(
        ArchiveError, match=r"'eidetic_runtime/__init__\.py', and its bundle\.json has schema 1\.4\.9"
    ):
        read_archive(small_archive(tmp_path / "a.mar", bundle=lambda b: b.update(schema="1.4.9")))


SINCE = "expected: every bundle since 1.2.0 has it, for proofs"


@pytest.mark.parametrize("key", ["layout", "precision", "routing"])
def test_an_archive_that_lacks_what_its_schema_has_is_refused_by_the_keys_name(archive, tmp_path, key):
    new = edited(archive, tmp_path / "new.mar", bundle=lambda b: b.pop(key))
    found = verify(new, archive)
    assert found.verdict == "refused"
    assert found.reasons == [f"{new}: bundle.json: {key} is missing; {SINCE}"]


def places(value, path=()):
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield from places(child, (*path, key))


ODD = [None, True, 0, -1, 2, 1.5, 1e30, "", "none", "t0", "t1", "router", "1.1.0", [], [1.0], {}, ["x"]]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), removed=st.booleans(), value=st.sampled_from(ODD))
def test_whatever_bundle_json_says_there_is_a_verdict(archive, tmp_path_factory, data, removed, value):
    described = []

    def change(bundle):
        path = data.draw(
            st.sampled_from([p for p in places(bundle) if p and p[0] not in ("files", "report")])
        )
        at = bundle
        for step in path[:-1]:
            at = at[step]
        if removed:
            del at[path[-1]]
        else:
            at[path[-1]] = value
        bundle.setdefault("files", {})
        bundle["prefixes"] = [p for p in bundle.get("prefixes") or [] if isinstance(p, dict) and "file" in p]
        described.append(copy.deepcopy(bundle))

    new = tmp_path_factory.getbasetemp() / "strange.mar"
    try:
        edited(archive, new, bundle=change)
    except (KeyError, TypeError, AttributeError):
        return  # not even the test's own editor can make an archive of it
    found = verify(new, archive)
    assert found.verdict in ("proven", "refused", "not comparable")
    assert found.verdict == "proven" or found.reasons, described
    json.dumps(found.to_json())
