"""Archives carry no code but handlers that this repository lists."""

import json
import shutil
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest

from eideticnet.export.archive import contents
from eideticnet.export.archive.delta import apply_delta, write_delta
from eideticnet.export.archive.reader import read_archive, read_files
from eideticnet.export.archive.releases import RELEASES, check_released, handler_files, release, revoke
from eideticnet.export.errors import ArchiveError
from eideticnet.export.proof.verify import verify
from tests.support.archived_networks import archived, edited, normalised
from tests.support.smallest_archive import flat_handler

HANDLERS = Path(__file__).parents[2] / "handlers"


@pytest.fixture
def changed(tmp_path):
    folder = Path(shutil.copytree(HANDLERS, tmp_path / "handlers"))
    with (folder / "eidetic_runtime/answers.py").open("a") as file:
        file.write("# mine\n")
    return folder


@pytest.fixture
def listed(tmp_path):
    return Path(shutil.copy(RELEASES, tmp_path / "handlers.json"))


def test_todays_handler_is_released():
    """If this fails, the handler was changed on purpose: run ``release-handlers``."""
    check_released(handler_files(HANDLERS))


def test_a_changed_handler_is_refused_until_it_is_released_and_the_old_one_stays(changed, listed):
    with pytest.raises(ArchiveError, match=r"'eidetic_runtime/answers\.py' is not .*release-handlers"):
        check_released(handler_files(changed), listed)
    assert release(changed, "9.9.9", listed)
    assert not release(changed, "9.9.10", listed)
    check_released(handler_files(changed), listed)
    check_released(handler_files(HANDLERS), listed)
    *before, last = json.loads(listed.read_text())
    assert before == json.loads(RELEASES.read_text())
    assert last["version"] == "9.9.9"


def test_files_of_two_releases_together_are_no_release(changed, listed):
    (changed / "eidetic_runtime/graph.py").write_text("# mine too\n")
    release(changed, "9.9.9", listed)
    mixed = {**handler_files(HANDLERS), "eidetic_runtime/graph.py": b"# mine too\n"}
    with pytest.raises(ArchiveError, match="handler files together"):
        check_released(mixed, listed)


def test_a_revoked_handler_is_refused_with_the_reason_and_others_are_not(changed, listed):
    release(changed, "9.9.9", listed)
    hole = sha256((HANDLERS / "eidetic_runtime/answers.py").read_bytes()).hexdigest()
    held = [r for r in json.loads(listed.read_text()) if hole in r["files"].values()]
    assert revoke(hole.upper(), "it answers “yes”", listed) == len(held) > 0
    assert [r["revoked"] for r in json.loads(listed.read_text()) if hole in r["files"].values()] == [
        "it answers “yes”"
    ] * len(held)
    with pytest.raises(ArchiveError, match="its handler was revoked: it answers “yes”; run eidetic export"):
        check_released(handler_files(HANDLERS), listed)
    with pytest.raises(ArchiveError, match="revoked"):
        release(HANDLERS, "10", listed)
    check_released(handler_files(HANDLERS), listed, revoked=True)
    check_released(handler_files(changed), listed)


@pytest.mark.parametrize(
    ("digest", "reason", "words"),
    [
        ("0" * 64, "a hole", "no released handler holds a file of SHA-256 '0000"),
        ("", "a hole", "no released handler"),
        ("0" * 64, " ", "a reason is needed"),
        ("0" * 64, "two\nlines", "a reason is needed"),
    ],
)
def test_what_can_not_be_revoked_is_told_and_the_list_stays(listed, digest, reason, words):
    with pytest.raises(ArchiveError, match=words):
        revoke(digest, reason, listed)
    assert listed.read_text() == RELEASES.read_text()


def test_an_archive_whose_handler_was_revoked_is_no_more_read_but_to_be_replaced(
    changed, listed, tmp_path, monkeypatch
):
    old = edited(archived(normalised(1), tmp_path / "1"), tmp_path / "old.mar", files=flat_handler)
    new = archived(normalised(1), tmp_path / "2", "2.0")
    assert verify(new, old).verdict == "proven"
    hole = sha256(read_files(old)[1]["eidetic_answer.py"]).hexdigest()
    revoke(hole, "it has a hole", listed)
    monkeypatch.setattr(contents, "check_released", partial(check_released, listed=listed))
    with pytest.raises(ArchiveError, match=r"old\.mar: its handler was revoked: it has a hole"):
        read_archive(old)
    assert verify(new, old).verdict == "proven"
    assert (verify(old, new).verdict, "it has a hole" in verify(old, new).reasons[0]) == ("refused", True)
    write_delta(old, new, tmp_path / "new.delta")
    apply_delta(old, tmp_path / "new.delta", tmp_path / "again.mar")
    assert (tmp_path / "again.mar").read_bytes() == new.read_bytes()


def test_an_archive_without_a_handler_is_refused():
    with pytest.raises(ArchiveError, match="handler files together"):
        check_released({})
