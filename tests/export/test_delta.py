"""A delta and the old archive give the new one byte for byte, or an error and nothing."""

import json
import tracemalloc
import zipfile
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import numpy_helper
from typer.testing import CliRunner

from eideticnet.export.archive.delta import apply_delta, write_delta
from eideticnet.export.archive.members import write_members
from eideticnet.export.archive.reader import read_files
from eideticnet.export.errors import ArchiveError
from eideticnet.menu import app
from tests.support.archived_networks import PROVABLE, archived, edited, grown
from tests.support.example_counts import examples


@pytest.fixture(scope="module", params=PROVABLE)
def made(request, tmp_path_factory):
    """Old archive, new archive, and the delta from the one to the other."""
    folder, (before, after, _) = tmp_path_factory.mktemp("made"), grown()
    old = archived(before, folder / "old", "1.0", prefixes=[2], layout=request.param)
    new = archived(after, folder / "new", "2.0", prefixes=[2, 3], layout=request.param)
    write_delta(old, new, folder / "net.delta")
    return old, new, folder / "net.delta"


def test_a_delta_applied_to_the_old_archive_gives_exactly_the_new_one(made, tmp_path):
    old, new, delta = made
    apply_delta(old, delta, tmp_path / "made.mar")
    assert (tmp_path / "made.mar").read_bytes() == new.read_bytes()


def test_a_delta_holds_no_tensor_that_the_old_archive_has(made):
    import onnx

    old, _, delta = made
    with zipfile.ZipFile(delta) as file:
        stored = file.read("new.bin")
    graph = onnx.load_model_from_string(read_files(old)[1]["model.onnx"]).graph
    large = [
        t.raw_data for t in graph.initializer if len(t.raw_data) >= 64 and b"_router" not in t.name.encode()
    ]
    held = [raw for raw in large if raw in stored]
    assert len(large) > 2
    assert not held


@examples(10, 100)
@given(rows=st.sets(st.integers(0, 19), min_size=1, max_size=3), value=st.sampled_from([0.0, -1.5, np.nan]))
def test_of_a_tensor_that_a_newcomer_wrote_into_a_delta_holds_the_rows_that_changed(
    made, tmp_path_factory, rows, value
):
    folder, sizes = tmp_path_factory.mktemp("rows"), []

    def write(model):
        tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
        numbers = numpy_helper.to_array(tensor).copy()
        numbers[[row % len(numbers) for row in rows]] = value
        tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))
        sizes.append(numbers[0].nbytes)

    old = made[1]
    new = edited(old, folder / "new.mar", write)
    write_delta(old, new, folder / "net.delta")
    apply_delta(old, folder / "net.delta", folder / "again.mar")
    assert (folder / "again.mar").read_bytes() == new.read_bytes()
    with zipfile.ZipFile(folder / "net.delta") as file:
        header = json.loads(file.read("delta.json"))
    (graph,) = [file for file in header["files"] if file["name"] == "model.onnx"]
    stored = sum(piece for piece in graph["pieces"] if isinstance(piece, int))
    assert stored <= len(rows) * (sizes[0] + 256) + 512


def test_a_part_that_a_piece_does_not_have_is_refused(made, tmp_path):
    old, _, delta = made
    with zipfile.ZipFile(delta) as file:
        header, stored = json.loads(file.read("delta.json")), file.read("new.bin")
    named = next(p for f in header["files"] for p in f["pieces"] if isinstance(p, str))
    for start, end in ((0, 1 << 40), (5, 4)):
        wrong = {**header["files"][0], "pieces": [{"of": named, "start": start, "end": end}]}
        changed = {**header, "files": [*header["files"][1:], wrong]}
        stored = stored[: sum(p for f in changed["files"] for p in f["pieces"] if isinstance(p, int))]
        path = tmp_path / f"{start}.delta"
        write_members({"delta.json": json.dumps(changed).encode(), "new.bin": stored}, path)
        with pytest.raises(ArchiveError, match="needs more of a piece than"):
            apply_delta(old, path, tmp_path / "made.mar")


def test_the_sizes_are_reported(made, tmp_path):
    old, new, _ = made
    out = tmp_path / "net.delta"
    result = CliRunner().invoke(app, ["delta", str(new), "--against", str(old), "--out", str(out)])
    assert f"{out}: {out.stat().st_size} bytes" in result.stdout
    result = CliRunner().invoke(app, ["apply", str(old), str(out), "--store", str(tmp_path)])
    assert result.stdout.strip() == str(tmp_path / "net-2.0.mar")
    assert (tmp_path / "net-2.0.mar").read_bytes() == new.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net-2.0.mar", "net.delta"]


def test_a_delta_for_another_archive_is_refused(made, tmp_path):
    _, new, delta = made
    with pytest.raises(ArchiveError, match="made for another archive"):
        apply_delta(new, delta, tmp_path / "made.mar")
    assert list(tmp_path.iterdir()) == []


@examples(20, 60)
@given(at=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_delta_gives_the_new_archive_or_nothing(made, tmp_path_factory, at, value, cut):
    old, new, delta = made
    folder = tmp_path_factory.mktemp("damaged")
    data = bytearray(delta.read_bytes())
    if cut:
        del data[int(at * len(data)) :]
    else:
        data[int(at * len(data))] = value
    (folder / "net.delta").write_bytes(data)
    try:
        apply_delta(old, folder / "net.delta", folder / "made.mar")
    except ArchiveError:
        assert not (folder / "made.mar").exists()
    else:
        assert (folder / "made.mar").read_bytes() == new.read_bytes()


@examples(15, 40)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers(-5, 1 << 70) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["schema", "old", "new", "files", "name", "pieces"]), inner)
        ),
        max_leaves=8,
    )
)
@example(value={"schema": "1.0.0", "old": "0", "new": "0", "files": [{"name": "../x", "pieces": [0]}]})
@example(value={"schema": "1.0.0", "old": "0", "new": "0", "files": [{"name": "x", "pieces": [-1]}]})
@example(value={"schema": "2.0.0", "old": "0", "new": "0", "files": []})
@example(value={"schema": "1.0.0", "files": []})
def test_a_header_that_nobody_wrote_on_purpose_is_refused(made, tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("header")
    write_members({"delta.json": json.dumps(value).encode(), "new.bin": b""}, folder / "net.delta")
    with pytest.raises(ArchiveError):
        apply_delta(made[0], folder / "net.delta", folder / "made.mar")
    assert not (folder / "made.mar").exists()


def test_a_delta_that_names_one_piece_again_and_again_is_refused_before_anything_is_put_together(
    made, tmp_path
):
    """Some 70 bytes of it ask for the largest piece of the old archive; here for gigabytes in all."""
    old, _, delta = made
    with zipfile.ZipFile(delta) as file:
        header, stored = json.loads(file.read("delta.json")), file.read("new.bin")
    pool = {sha256(data).hexdigest(): len(data) for data in read_files(old)[1].values()}
    named = {p for f in header["files"] for p in f["pieces"] if isinstance(p, str)}
    largest = max(named & pool.keys(), key=pool.__getitem__)  # a file of the handler
    header["files"][0]["pieces"] += [largest] * ((3 << 30) // pool[largest])
    write_members({"delta.json": json.dumps(header).encode(), "new.bin": stored}, tmp_path / "net.delta")
    tracemalloc.start()
    with pytest.raises(ArchiveError, match=r"asks for 3\d{9} bytes, more than the \d+ allowed"):
        apply_delta(old, tmp_path / "net.delta", tmp_path / "made.mar")
    assert tracemalloc.get_traced_memory()[1] < 1 << 29
    tracemalloc.stop()
    assert [path.name for path in tmp_path.iterdir()] == ["net.delta"]


def test_how_large_an_archive_may_become_can_be_said(made, tmp_path):
    old, new, delta = made
    size = sum(map(len, read_files(new)[1].values()))
    with pytest.raises(ArchiveError, match=f"asks for {size} bytes"):
        apply_delta(old, delta, tmp_path / "made.mar", size - 1)
    apply_delta(old, delta, tmp_path / "made.mar", size)
    assert (tmp_path / "made.mar").read_bytes() == new.read_bytes()


def test_a_delta_that_inflates_is_refused(made, tmp_path):
    """Members are stored, so reading one takes no more memory than the file."""
    with zipfile.ZipFile(tmp_path / "net.delta", "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in (("delta.json", b"{}" + b" " * 100_000), ("new.bin", bytes(1 << 20))):
            entry = zipfile.ZipInfo(name)
            entry.compress_type, entry.create_system, entry.external_attr = 8, 3, 0o644 << 16
            file.writestr(entry, data)
    with pytest.raises(ArchiveError, match="declares 100002 bytes, more than"):
        apply_delta(made[0], tmp_path / "net.delta", tmp_path / "made.mar")


def test_a_delta_with_an_unknown_piece_is_refused(made, tmp_path):
    old, _, delta = made
    with zipfile.ZipFile(delta) as file:
        header, stored = json.loads(file.read("delta.json")), file.read("new.bin")
    header["files"][0]["pieces"].append("0" * 64)
    write_members({"delta.json": json.dumps(header).encode(), "new.bin": stored}, tmp_path / "net.delta")
    with pytest.raises(ArchiveError, match="does not hold"):
        apply_delta(old, tmp_path / "net.delta", tmp_path / "made.mar")
