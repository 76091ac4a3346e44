"""What is read is a regular file, what is written is whole, and who is killed leaves no parts for ever."""

import io
import os
import pickle
import re
import resource
import signal
import socket
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from eideticnet.export.archive.delta import apply_delta, write_delta
from eideticnet.export.archive.labeled_inputs import read_inputs
from eideticnet.export.archive.members import write_members
from eideticnet.export.archive.reader import read_archive
from eideticnet.export.errors import NO_ARCHIVE, ArchiveError
from eideticnet.export.files import scratch_folder, whole_file, whole_folder
from eideticnet.export.proof.verify import verify
from eideticnet.serving.home.store import admit
from tests.support.smallest_archive import BASE, small_archive

ROOT = Path(__file__).parents[2]


def a_pipe(path):
    os.mkfifo(path)


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


def a_folder(path):
    path.mkdir()


def a_device(path):
    path.symlink_to("/dev/zero")


def told(report):
    report.to_json()
    return report


READERS = {
    "read": lambda path, folder: read_archive(path),
    "verify": lambda path, folder: verify(path, path),
    "the report of verify": lambda path, folder: told(verify(BASE, path)),
    "verify against": lambda path, folder: verify(BASE, path),
    "delta": lambda path, folder: write_delta(BASE, path, folder / "out"),
    "delta against": lambda path, folder: write_delta(path, BASE, folder / "out"),
    "apply": lambda path, folder: apply_delta(BASE, path, folder / "out"),
    "apply to": lambda path, folder: apply_delta(path, empty_delta(folder), folder / "out"),
    "admit": lambda path, folder: admit(path, folder, allow_torch=False),
}


def empty(folder):
    return small_archive(folder / "one.mar")


def empty_delta(folder):
    one = empty(folder)
    write_delta(one, one, folder / "one.delta")
    return folder / "one.delta"


@pytest.mark.parametrize("make", [a_pipe, a_socket, a_folder, a_device])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_regular_file_is_refused_at_once(reader, make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "odd.mar"
    make(path)
    kind = make.__name__.replace("_", " ")
    with pytest.raises(ArchiveError, match=rf"odd\.mar can't be read: it is {kind}; expected a regular"):
        READERS[reader](path, tmp_path)


@pytest.mark.parametrize("reader", READERS)
def test_what_is_something_else_is_told_with_what_is_expected_and_what_to_do(reader, tmp_path):
    def refusal(path):
        try:
            return READERS[reader](path, tmp_path).reasons[0]  # a proof can be refused as well
        except ArchiveError as error:
            return str(error)

    expected = "it is no EideticNet delta; eidetic delta" if reader == "apply" else NO_ARCHIVE
    path = tmp_path / "x.mar"
    for content in (b"some text", BASE.read_bytes()[:-30]):
        path.write_bytes(content)
        assert expected in refusal(path)
    with zipfile.ZipFile(path, "w") as foreign:
        foreign.writestr("MAR-INF/MANIFEST.json", "{}")
    assert expected in refusal(path)
    write_members({"weights": b""}, path)
    assert expected in refusal(path)
    if reader != "apply":
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "network.json").write_text("{}")
        with pytest.raises(ArchiveError, match="it is a run; eidetic export it first"):
            READERS[reader](tmp_path / "run", tmp_path)


@pytest.mark.parametrize("size", [3 << 30, 7 << 30, 50 << 30])
@pytest.mark.parametrize("reader", READERS)
def test_a_huge_file_is_refused_before_it_is_read(reader, size, tmp_path):
    """It is sparse: it takes no room on the disk, and would take all memory."""
    path = sparse(tmp_path / "huge.mar", size)
    with limited_memory():
        try:
            found = READERS[reader](path, tmp_path).reasons  # a proof can be refused as well
        except ArchiveError as error:
            found = [str(error)]
    assert re.search(r"huge\.mar.* (no zip file|bytes; expected \d+ at most)", found[0])


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: sparse(path, 7 << 30), r"is no \.\w+ file|has \d+ bytes, and \d+ by its header"),
        (lambda path: sparse(path, 50 << 30), "bytes; expected .* at most"),
        (lambda path: path.write_bytes(b""), r"is no \.\w+ file"),
        (lambda path: path.write_bytes(objects()), r"Python objects|is no \.safe"),
        (lambda path: path.write_bytes(pickle.dumps([1])), r"is no \.\w+ file"),
        (lambda path: becomes(path, 7 << 30), r"more memory than there is|is no \.safe"),
        (lambda path: becomes(path, 50 << 30), r"becomes \d+ bytes; expected|is no \.safe"),
    ],
)
def test_real_inputs_that_would_take_all_memory_or_run_code_are_refused_by_name(
    suffix, make, words, tmp_path
):
    path = tmp_path / f"real{suffix}"
    make(path)
    with limited_memory(), pytest.raises(ArchiveError, match=f"routing data {path}: .*({words})") as error:
        read_inputs(path, {})
    assert "pickle" not in str(error.value)


@contextmanager
def limited_memory():
    """4 GB more than this process has of addresses, so that a test that fails takes nobody's memory."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    here = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (here + (4 << 30), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def objects():
    file = io.BytesIO()
    np.savez(file, x=np.array([{}]))
    return file.getvalue()


def sparse(path, size):
    with path.open("wb") as file:
        file.truncate(size)
    return path


def becomes(path, size):
    """An .npz file whose one member claims to become ``size`` bytes."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<f4", "fortran_order": False, "shape": (size // 4,)}
    )
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", head.getvalue())
        file.infolist()[0].file_size = size


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_real_inputs_are_read_from_regular_files_only(suffix, tmp_path):
    path = tmp_path / f"real{suffix}"
    a_pipe(path)
    with pytest.raises(ArchiveError, match=r"can't read routing data .* is a pipe"):
        read_inputs(path, {})


def test_a_file_that_is_not_there_is_told_so(tmp_path):
    with pytest.raises(ArchiveError, match=r"none\.mar: there is no such file; eidetic export"):
        read_archive(tmp_path / "none.mar")


KILLED = """
import os, signal, sys
from pathlib import Path
from eideticnet.export.files import {kind}
with {kind}(Path(sys.argv[1])) as made:
    if hasattr(made, "write"):
        made.write(b"half")
        made.flush()
    else:
        (made / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["whole_file", "whole_folder", "scratch_folder"])
def test_what_a_killed_process_left_is_removed_by_the_next_one_and_not_before_it_died(kind, tmp_path):
    command = [sys.executable, "-c", KILLED.format(kind=kind), str(tmp_path / "old")]
    killed = subprocess.run(command, cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [p.suffix for p in tmp_path.iterdir()] == [".partial"]
    (tmp_path / "my.partial").write_text("mine")
    with whole_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("a")
        with whole_file(tmp_path / "file") as file:
            file.write(b"b")
    assert {p.name for p in tmp_path.iterdir()} == {"folder", "file", "my.partial"}
    assert (tmp_path / "folder/a").read_text() == "a"
    assert (tmp_path / "file").read_bytes() == b"b"


def test_the_longest_name_that_a_file_may_have_can_be_written(tmp_path):
    with whole_file(tmp_path / ("f" * 255)) as file:
        file.write(b"f")
    with whole_folder(tmp_path / ("ä" * 127)) as folder, scratch_folder(tmp_path / ("€" * 85)):
        (folder / "a").write_text("a")
    assert {p.name for p in tmp_path.iterdir()} == {"f" * 255, "ä" * 127}


def test_a_scratch_folder_takes_along_the_folder_that_was_made_for_it(tmp_path):
    with scratch_folder(tmp_path / "store/net.mar") as folder:
        np.save(folder / "a.npy", np.zeros(1))
    assert list(tmp_path.iterdir()) == []
    with scratch_folder(tmp_path / "store/net.mar"):
        (tmp_path / "store/other.mar").write_text("")
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["other.mar"]
