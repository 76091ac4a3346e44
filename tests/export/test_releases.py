"""Archives carry no code but handlers that this repository lists."""

import json
import shutil
from pathlib import Path

import pytest

from eideticnet.export.errors import ArchiveError
from eideticnet.export.releases import RELEASES, check_released, handler_files, release

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


def test_an_archive_without_a_handler_is_refused():
    with pytest.raises(ArchiveError, match="handler files together"):
        check_released({})
