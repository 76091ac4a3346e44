"""What a home folder promises: whole files, one server, one change at a time, the bytes that were checked."""

import io
import multiprocessing
import os
import signal
import stat
import sys

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from eideticnet.export.errors import ArchiveError
from eideticnet.files import write_whole as write_file
from eideticnet.menu import app
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.addresses import Ports
from eideticnet.serving.home.files import write_whole
from eideticnet.serving.home.home import Home, Locked
from eideticnet.serving.home.state import Model, State, Version
from eideticnet.serving.home.store import admit, opened, remove_unneeded
from eideticnet.serving.key import Key
from eideticnet.serving.show import heedless

NAMES = st.from_regex(r"[a-z][a-z0-9_.-]{0,8}", fullmatch=True)
VERSIONS = st.builds(
    lambda v, digest: Version(version=v, file=f"net-{v}-{digest[:12]}.mar", sha256=digest),
    st.sampled_from(["1.0", "2.0", "3.0"]),
    st.text("0123456789abcdef", min_size=64, max_size=64),
)
STATES = st.builds(
    State, models=st.dictionaries(NAMES, st.builds(Model, default=VERSIONS, previous=VERSIONS | st.none()))
)


@given(state=STATES)
def test_a_state_reads_as_it_was_written(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("state") / "state.json"
    state.write(path)
    assert State.load(path) == state


@given(state=STATES, name=NAMES, first=VERSIONS, second=VERSIONS)
def test_the_version_before_is_always_one_that_torchserve_can_hold_beside_the_new(state, name, first, second):
    model = state.replaced(name, first).replaced(name, second).models[name]
    assert model.default == second
    assert model.previous in (None, first)
    assert model.previous is None or model.previous.version != second.version
    assert second.sha256 not in model.earlier
    assert first.sha256 in {*model.earlier, second.sha256}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no strict JSON"),
        ('{"schema": 2, "models": {}}', "schema"),
        ('{"schema": 1, "models": {}, "more": 1}', "more"),
        ('{"schema": 1, "models": {"net": {}}}', r"models\.net\.default"),
        ('{"schema": 1, "models": {}, "models": {}}', "is no strict JSON: .* the key 'models' twice"),
        (
            '{"schema": 1, "models": {"net": {"default": {"version": "1", "file": "../x", "sha256": ""}}}}',
            r"models\.net\.default\.file",
        ),
    ],
)
def test_a_damaged_state_is_an_error_that_names_file_and_place(text, words, tmp_path):
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(ServingError, match=rf"{path} (is damaged: )?{words}"):
        State.load(path)


@pytest.mark.parametrize("name", ["store", "metrics", "rings", "logs"])
def test_a_folder_that_is_no_home_and_holds_files_where_a_server_has_its_own_is_left_alone(name, tmp_path):
    (tmp_path / name / "mine").mkdir(parents=True)
    with pytest.raises(ServingError, match=rf"{tmp_path} is no server's home, .*/{name} holds other files"):
        Home(tmp_path).create()
    assert (tmp_path / name / "mine").exists()
    (tmp_path / "server.lock").touch()
    Home(tmp_path).create()


def test_rings_of_an_older_server_move_to_where_they_are_kept_now_and_nobody_elses_folder_does(
    tmp_path,
):
    home = Home(tmp_path)
    (tmp_path / "records").mkdir()
    (tmp_path / "records/net-1-7.npy").touch()
    home.create()
    assert (tmp_path / "records").exists()
    home.header.touch()
    home.create()
    assert [path.name for path in home.rings.iterdir()] == ["net-1-7.npy"]
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize(
    "text", ["", "[" * 10**5, "[]", '{"inference": ""}', '{"inference": "a\\r\\nb"}', '{"inference": "é"}']
)
def test_a_key_file_that_becomes_something_else_never_becomes_a_header(text, tmp_path):
    path = tmp_path / "keys.json"
    path.write_text('{"inference": "right"}')
    key = Key(path)
    path.write_text(text)
    assert not key.changed("Bearer right")
    assert key.header() == "Bearer right"
    with pytest.raises(ServingError, match="key"):
        Key(path)


@pytest.mark.parametrize("write", [write_whole, write_file], ids=["serving", "eideticnet"])
def test_a_device_is_never_replaced_by_a_file(write, tmp_path):
    device = tmp_path / "device"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except OSError as error:
        pytest.skip(f"no device can be made here: {error}")
    with pytest.raises((ServingError, OSError), match=r"device|no ordinary file"):
        write(device, b"secret")
    assert device.is_char_device()
    assert list(tmp_path.iterdir()) == [device]


def test_nothing_that_is_printed_ends_a_server_or_a_deploy(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Gone())
        with heedless():
            print("a line", file=getattr(sys, name))
            typer.echo("a line", err=name == "stderr")
            Console(stderr=name == "stderr").print("a line")
        with pytest.raises(BrokenPipeError):
            print("a line", file=getattr(sys, name))
        monkeypatch.setattr(sys, name, None)
        with heedless():
            typer.echo("a line", err=name == "stderr")


def test_an_empty_name_of_a_home_is_not_the_working_directory():
    result = CliRunner().invoke(app, ["status", "--home", ""])
    assert (result.exit_code, "it is empty" in result.output) == (2, True)


def test_one_model_needs_no_name_and_two_do():
    version = Version(version="1", file="a.mar", sha256="0" * 64)
    one = State().replaced("a", version)
    two = one.replaced("b", version)
    assert one.only() == "a"
    assert two.only("b") == "b"
    with pytest.raises(ServingError, match="served here: a, b"):
        two.only()
    with pytest.raises(ServingError, match="no model 'c' is served here"):
        two.only("c")
    with pytest.raises(ServingError, match="served here: none"):
        State().only()


def _rewrite(path, begun):
    for i in range(10_000):
        write_whole(path, bytes([i % 256]) * 50_000)
        begun.set()


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path):
    path = tmp_path / "file"
    for _ in range(5):
        begun = multiprocessing.Event()
        writer = multiprocessing.Process(target=_rewrite, args=(path, begun))
        writer.start()
        begun.wait()
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        content = path.read_bytes()
        assert len(content) == 50_000
        assert len(set(content)) == 1


def test_what_can_not_be_written_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(ServingError, match=str(tmp_path / "file")):
        write_whole(tmp_path / "file", b"")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def _hold(root, held):
    with Home(root).serving(), Home(root).changing():
        held.set()
        signal.pause()


def test_a_lock_names_its_holder_and_goes_with_it(tmp_path):
    home, held = Home(tmp_path), multiprocessing.Event()
    holder = multiprocessing.Process(target=_hold, args=(tmp_path, held))
    holder.start()
    held.wait()
    with pytest.raises(Locked, match=f"a server runs in {tmp_path} already: process {holder.pid}"):
        with home.serving():
            pass
    with pytest.raises(Locked, match=f"process {holder.pid}"):
        with home.changing(0.2):
            pass
    assert home.served()
    holder.kill()
    holder.join()
    assert not home.served()
    with home.serving(), home.changing():
        pass


def test_a_home_whose_files_are_pipes_keeps_nobody_waiting(tmp_path):
    home = Home(tmp_path)
    for path in (home.server_lock, home.ports, home.keys):
        os.mkfifo(path)
    assert not home.served()
    with home.serving():
        assert home.served()
    for read in (lambda: Ports.read(home.ports), lambda: Key(home.keys)):
        with pytest.raises(ServingError, match="is a pipe; expected a regular file"):
            read()


def test_the_store_holds_the_bytes_that_were_checked(versions, tmp_path):
    home = Home(tmp_path / "home")
    home.create()
    stored = admit(versions["1.0"], home.store, allow_torch=False)
    copy = home.store / stored.version.file
    assert copy.read_bytes() == versions["1.0"].read_bytes()
    assert stored.version.file == f"net-1.0-{stored.version.sha256[:12]}.mar"
    assert opened("net", stored.version, home.store, allow_torch=False).version == "1.0"
    with pytest.raises(ServingError, match=r"the state names .* other 1\.0, and it holds net 1\.0"):
        opened("other", stored.version, home.store, allow_torch=False)
    copy.write_bytes(versions["2.0"].read_bytes())
    with pytest.raises(ServingError, match="was changed after it was admitted"):
        opened("net", stored.version, home.store, allow_torch=False)
    admit(versions["1.0"], home.store, allow_torch=False)
    assert opened("net", stored.version, home.store, allow_torch=False).version == "1.0"
    copy.unlink()
    os.mkfifo(copy)
    with pytest.raises(ServingError, match="is a pipe; expected a regular file"):
        opened("net", stored.version, home.store, allow_torch=False)
    copy.unlink()
    with pytest.raises(ServingError, match="can't be read"):
        opened("net", stored.version, home.store, allow_torch=False)


def test_half_an_archive_is_refused_by_its_name_and_leaves_nothing(versions, tmp_path):
    home, half = Home(tmp_path / "home"), tmp_path / "half.mar"
    home.create()
    half.write_bytes(versions["1.0"].read_bytes()[:-100])
    with pytest.raises(ArchiveError, match=str(half)):
        admit(half, home.store, allow_torch=False)
    with pytest.raises(ArchiveError, match="there is no such file"):
        admit(tmp_path / "none.mar", home.store, allow_torch=False)
    assert list(home.store.iterdir()) == []


def test_what_can_run_code_is_refused_unless_it_was_allowed(store, tmp_path):
    home = Home(tmp_path / "home")
    home.create()
    with pytest.raises(ServingError, match="--allow-torch"):
        admit(store / "digits-torchscript-3.0.mar", home.store, allow_torch=False)
    assert list(home.store.iterdir()) == []
    assert admit(store / "digits-torchscript-3.0.mar", home.store, allow_torch=True).version.version == "3.0"


def test_pruning_keeps_what_a_rollback_needs(versions, tmp_path):
    home = Home(tmp_path / "home")
    home.create()
    state = State()
    for archive in versions.values():
        state = state.replaced("net", admit(archive, home.store, allow_torch=False).version)
    remove_unneeded(home.store, state)
    assert {p.name.rsplit("-", 1)[0] for p in home.store.iterdir()} == {"net-2.0", "net-3.0"}
