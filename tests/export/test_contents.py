"""Whatever the files of an archive hold, reading gives an archive or our error, never another."""

import contextlib
import json
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eideticnet.export.archive.contents import CONFIG, check_contents, limit
from eideticnet.export.archive.members import read_members, write_members
from eideticnet.export.archive.reader import read_archive, read_files
from eideticnet.export.errors import ArchiveError
from tests.support.example_counts import examples

BASE = Path(__file__).parent / "attacks/base.mar"


@cache
def base():
    return read_files(BASE)[1]


@st.composite
def edited(draw, data):
    """``data`` with a few slices replaced by other bytes."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = start + draw(st.integers(0, 8))
        data = data[:start] + draw(st.binary(max_size=8)) + data[end:]
    return data


def consistent(**changed):
    """The members of the base archive with other files, of which bundle.json states the SHA-256."""
    members = {**base(), **changed}
    bundle = json.loads(members["bundle.json"])
    bundle["files"] = {name: sha256(members[name]).hexdigest() for name in bundle["files"]}
    return {**members, "bundle.json": json.dumps(bundle).encode()}


@examples(60, 300)
@given(st.data())
def test_an_edited_file_is_read_or_refused_by_our_error(data):
    name = data.draw(st.sampled_from(sorted(base())))
    found = data.draw(edited(base()[name]) | st.binary(max_size=100))
    members = {**base(), name: found} if name == "bundle.json" else consistent(**{name: found})
    with contextlib.suppress(ArchiveError):
        check_contents(members)


@examples(60, 300)
@given(st.data())
def test_an_edited_archive_is_refused_by_our_error(tmp_path_factory, data):
    original = BASE.read_bytes()
    archive = data.draw(edited(original))
    path = tmp_path_factory.getbasetemp() / "edited.mar"
    path.write_bytes(archive)
    if archive != original:
        with pytest.raises(ArchiveError, match=r"edited\.mar"):
            read_archive(path)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8})?\.[a-z]{1,4}", fullmatch=True), st.binary()))
def test_members_come_back_as_they_were_written(tmp_path_factory, members):
    path = tmp_path_factory.getbasetemp() / "written.mar"
    write_members(members, path)
    assert read_members(path, limit) == members


FOREIGN = [
    *("", "null", "[1]", "batchSize: true", "batchSize: 0", "batchSize: 1.5", "batchSize: '8'"),
    *("handler: {threads: 1, code: x}", "minWorkers: 1\n---\nminWorkers: 2", "a: [", "{[]: 1}", "\x00"),
    *("date: 2026-99-99", "[" * 3000, "handler: {device: tpu}", "handler: {buckets: []}"),
    "handler: {buckets: [0]}",
]


@pytest.mark.parametrize("text", FOREIGN)
def test_a_configuration_that_is_not_ours_is_refused(text):
    with pytest.raises(ArchiveError, match=r"model-config\.yaml is not as an export writes it") as error:
        check_contents({**base(), CONFIG: text.encode()})
    assert str(error.value).isprintable()


def test_a_configuration_of_other_numbers_is_welcome():
    check_contents({**base(), CONFIG: b"minWorkers: 2\nmaxWorkers: 4\nhandler: {threads: 2}\n"})
    check_contents({**base(), CONFIG: b"handler: {device: cuda, threads: 1, buckets: [1, 8, 32]}\n"})
