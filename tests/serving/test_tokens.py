"""TorchServe's tokens expire. They are renewed before, and afterwards too: a clock may jump."""

import json
import os
import threading
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eideticnet.client import Client
from eideticnet.serving.errors import ServingError, Unavailable, WrongKeyError
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.running import Keys
from eideticnet.serving.home.state import State
from eideticnet.serving.supervise.launch import ServerOptions
from eideticnet.serving.supervise.start import prepared, started
from eideticnet.serving.torchserve.engine import TorchServeEngine
from eideticnet.serving.torchserve.management import ManagementError
from eideticnet.serving.torchserve.tokens import Tokens
from tests.support.own_ports import with_own_ports
from tests.support.waiting import PATIENCE, until

MINUTES = 100
ROW = {"data": [0.5] * 6}


class Java:
    """What TorchServe does with its key file, and a clock for both. ``broken``: it renews nothing."""

    def __init__(self, folder):
        self.file, self.now, self.made, self.broken = folder / "key_file.json", 1e9, 0, False
        self.tokens = {"API": {"key": "third"}}
        for kind in ("inference", "management"):
            self._make(kind)
        self._write()

    def _make(self, kind):
        self.made += 1
        ends = datetime.fromtimestamp(self.now + 60 * MINUTES, UTC).isoformat()
        self.tokens[kind] = {"key": f"{kind}{self.made}", "expiration time": ends}

    def _write(self):
        self.file.write_text(json.dumps(self.tokens))

    def renew(self, kind, key):
        assert key == "third"
        if self.broken:
            raise ManagementError(0, "no answer")
        self._make(kind)
        self._write()

    def known(self, keys):
        """Whether a client with ``keys`` is answered."""
        ends = [datetime.fromisoformat(self.tokens[kind]["expiration time"]) for kind in Keys.model_fields]
        same = keys.model_dump() == {kind: self.tokens[kind]["key"] for kind in Keys.model_fields}
        return same and self.now < min(ends).timestamp()


@pytest.fixture
def java(tmp_path):
    return Java(tmp_path)


def tokens(java):
    folder = java.file.parent
    made = Tokens(java.file, MINUTES, folder / "keys.json", folder / "header", lambda: java.now)
    made.write()
    return made


def _pipe(path):
    path.unlink()
    os.mkfifo(path)


def _own_link(path):
    path.unlink()
    path.symlink_to(path)


@settings(max_examples=20)
@given(st.lists(st.floats(-(10**9), 10**9), max_size=20))
def test_wherever_the_clock_goes_the_keys_in_the_file_are_always_right(tmp_path_factory, jumps):
    java = Java(tmp_path_factory.mktemp("keys"))
    tended = tokens(java)
    for jump in jumps:
        java.now = max(0.0, min(java.now + jump, 1e10))
        tended.tend(java)
        assert java.known(Keys.read(java.file.with_name("keys.json")))
        inference = java.tokens["inference"]["key"]
        assert java.file.with_name("header").read_text() == f"Authorization: Bearer {inference}\n"


def test_keys_are_left_alone_until_a_tenth_of_their_time_is_left(java):
    tended = tokens(java)
    for minutes, made in ((0, 2), (89, 2), (91, 4), (180, 4), (182, 6)):
        java.now = 1e9 + 60 * minutes
        tended.tend(java)
        assert java.made == made


def test_keys_that_can_not_be_renewed_or_written_are_tried_again(java):
    tended, keys = tokens(java), java.file.with_name("keys.json")
    java.now += 60 * MINUTES
    java.broken = True
    with pytest.raises(Unavailable, match="the keys have expired: no answer"):
        tended.tend(java)
    java.broken = False
    keys.unlink()
    keys.mkdir()
    with pytest.raises(Unavailable, match=r"keys\.json can't be written"):
        tended.tend(java)
    keys.rmdir()
    tended.tend(java)
    assert java.known(Keys.read(keys))
    assert keys.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_text("{}"), _pipe, _own_link])
@pytest.mark.parametrize("name", ["keys.json", "header"])
def test_a_file_for_clients_that_is_gone_or_is_another_is_written_anew(java, name, harm):
    tended, path = tokens(java), java.file.with_name(name)
    right = path.read_bytes()
    harm(path)
    tended.tend(java)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (right, 0o600)


DAMAGED = [
    b'{"inference": ["SECRET"], "management": "SECRET"}',
    b'{"inference": "SECRET", "management": "SECRET \\ud800"}',
    b'{"inference": {"SECRET": "SECRET"}, "management": "SECRET"}',
    b'{"inference": "SECRET", "management": "SECRET", "SECRET": "SECRET"}',
    b'{"SECRET": 1, "SECRET": 2}',
    b'{"inference": "SECRET", "management": 5367}',
    b'{"inference": 53675367536753675367}',
    b'{"inference": "SECRET", "management": SECRET',
    b'{"inference": "SECRET\xff"}',
    b'"SECRET"',
    b'["SECRET"]',
    b'{"inference": "SECRET"}',
]


@pytest.mark.parametrize("content", DAMAGED)
def test_no_error_about_a_damaged_file_of_keys_shows_what_it_holds(content, tmp_path):
    (tmp_path / "keys.json").write_bytes(content)
    with pytest.raises(Unavailable, match=r"keys\.json is (damaged|no strict JSON)") as error:
        Keys.read(tmp_path / "keys.json")
    shown = "".join(traceback.format_exception(error.value)).replace(str(tmp_path), "")
    assert "SECRET" not in shown
    assert "5367" not in shown


def test_keys_are_not_shown():
    assert "SECRET" not in repr(Keys(inference="SECRET", management="SECRET"))


def test_a_file_that_can_not_be_read_as_json_is_not_shown_whole(tmp_path):
    (tmp_path / "state.json").write_bytes(b'{"generation": 1, "inference": "MUCH \\ud800"}')
    with pytest.raises(Unavailable, match=r"state\.json is no strict JSON: .*surrogates") as error:
        State.read(tmp_path / "state.json")
    assert "MUCH" not in str(error.value)


def test_what_is_not_tended_is_left_as_it_is_where_torchserves_folder_is_gone(java):
    tended = tokens(java)
    java.file.unlink()
    tended.tend(java)
    with pytest.raises(ServingError, match="has not written its keys"):
        Tokens(java.file, MINUTES, java.file, java.file)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_client_is_answered_beyond_the_end_of_its_key_and_after_a_time_in_which_nobody_renewed(
    versions, tmp_path
):
    """The supervisor is stopped from looking for longer than the keys last, which is a clock that jumps."""
    home, done = Home(with_own_ports(tmp_path / "home")), threading.Event()
    answers = []

    def ask(url, path):
        with Client(url, path, retries=3, timeout=PATIENCE) as client:
            while not done.is_set():
                answers.append(client.predict("net", ROW)["model_version"])
                time.sleep(0.2)

    with (
        prepared(home, [versions["1.0"]], ServerOptions()),
        started(home, ServerOptions(TorchServeEngine(token_minutes=1))) as supervisor,
    ):
        frontend = supervisor.process.pid
        thread = threading.Thread(target=ask, args=(supervisor.server.running.inference, home.keys))
        thread.start()
        made = set()
        supervisor.run(lambda: made.add(Keys.read(home.keys).inference) or len(made) > 2)
        done.set()
        thread.join()
        assert set(answers) == {"1.0"}
        before = Keys.read(home.keys)
        time.sleep(61)
        with Client(supervisor.server.running.inference, home.keys) as client:
            with pytest.raises(WrongKeyError):
                client.predict("net", ROW)
            supervisor.run(lambda: Keys.read(home.keys) != before)
            assert client.predict("net", ROW)["model_version"] == "1.0"
        assert supervisor.process.pid == frontend
        until(lambda: supervisor.watch.unready() == [])
        control = supervisor.server.running.control
        until(lambda: httpx.get(control + "/ready", timeout=PATIENCE, trust_env=False).status_code == 200)
