"""What the tests of the command line share."""

import pytest

from tests.support.user_project import Result, write_project


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A user's folder, and the current one."""
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run a command line in this process; starting another takes seconds."""
    from eideticnet.__main__ import main
    from eideticnet.users_code import forget

    def call(*arguments, check=True):
        forget(all_of_it=True)  # of what an earlier command imported here
        with pytest.raises(SystemExit) as end:
            main(arguments)
        captured = capsys.readouterr()
        result = Result(int(end.value.code or 0), captured.out, captured.err)
        assert not check or result.returncode == 0, result
        return result

    return call
