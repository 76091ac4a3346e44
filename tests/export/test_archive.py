"""Archives are reproducible, self-describing, and refused when they are not whole."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from eideticnet.export.archive.reader import read_archive, read_files
from eideticnet.export.archive.writer import SERVING, write_archive
from eideticnet.export.bundle.writer import write_bundle
from eideticnet.export.errors import ArchiveError
from tests.support.example_counts import often
from tests.support.forked import eidetic
from tests.support.small_networks import trained
from tests.support.smallest_archive import flat_handler

ROOT = Path(__file__).parents[2]
HANDLERS = ROOT / "handlers"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    write_bundle(trained(2), folder, name="net", model_version="2.0")
    return folder


@pytest.fixture
def bundle(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "bundle"))


def test_equal_bundles_give_equal_archives_byte_for_byte(bundle, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    write_bundle(trained(2), again, name="net", model_version="2.0")
    write_archive(bundle, HANDLERS, tmp_path / "a.mar")
    write_archive(again, HANDLERS, tmp_path / "b.mar")
    assert (tmp_path / "a.mar").read_bytes() == (tmp_path / "b.mar").read_bytes()


def test_an_archive_holds_the_bundle_our_handler_and_nothing_else(bundle, tmp_path):
    write_archive(bundle, HANDLERS, tmp_path / "a.mar")
    assert zipfile.ZipFile(tmp_path / "a.mar").namelist() == [
        "MAR-INF/MANIFEST.json",
        "bundle.json",
        *sorted(path.relative_to(HANDLERS).as_posix() for path in HANDLERS.rglob("*.py")),
        "model-config.yaml",
        "model.onnx",
        "probes.safetensors",
    ]


def test_an_archive_says_how_it_is_to_be_served(bundle, tmp_path):
    chosen = {"batchSize": 8, "handler": {"device": "cpu", "buckets": [1, 8]}}
    write_archive(bundle, HANDLERS, tmp_path / "a.mar", chosen)
    config = yaml.safe_load(zipfile.ZipFile(tmp_path / "a.mar").read("model-config.yaml"))
    assert config == {**SERVING, **chosen, "handler": {"device": "cpu", "threads": 1, "buckets": [1, 8]}}
    with pytest.raises(ArchiveError, match=r"export writes it: handler.device is 'tpu'"):
        write_archive(bundle, HANDLERS, tmp_path / "b.mar", {"handler": {"device": "tpu"}})
    assert not (tmp_path / "b.mar").exists()


def test_an_archive_is_never_served_in_larger_batches_than_its_answers_allow(bundle, tmp_path):
    description = json.loads((bundle / "bundle.json").read_text())
    description["limits"]["max_batch"] = 8
    (bundle / "bundle.json").write_text(json.dumps(description))
    for asked, given in ((1, 1), (8, 8), (9, 8)):
        write_archive(bundle, HANDLERS, tmp_path / "a.mar", {"batchSize": asked})
        config = yaml.safe_load(read_files(tmp_path / "a.mar")[1]["model-config.yaml"])
        assert config["batchSize"] == given


def test_what_an_archive_says_of_itself_can_be_read_without_running_it(bundle, tmp_path):
    write_archive(bundle, HANDLERS, tmp_path / "a.mar")
    archive = read_archive(tmp_path / "a.mar")
    assert (archive.name, archive.version) == ("net", "2.0")
    assert [t.name for t in archive.tasks] == ["task 0", "task 1"]
    assert archive.probes["t1"].shape == (8, 6)


def test_an_archive_cut_anywhere_is_refused_by_name(bundle, tmp_path):
    write_archive(bundle, HANDLERS, tmp_path / "whole.mar")
    data = (tmp_path / "whole.mar").read_bytes()
    for share in (0, 0.1, 0.5, 0.9, 0.999):
        path = tmp_path / "cut.mar"
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ArchiveError, match=r"cut\.mar"):
            read_archive(path)


@pytest.mark.parametrize("step", often([1, 3], [3]))
def test_every_changed_byte_is_noticed(bundle, tmp_path, step):
    write_archive(bundle, HANDLERS, tmp_path / "a.mar")
    data = (tmp_path / "a.mar").read_bytes()
    path = tmp_path / "b.mar"
    start = data.index(b"PK\1\2")
    for position in {*range(0, start, 41 * step), *range(start, len(data), step)}:
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        with pytest.raises(ArchiveError, match=r"b\.mar"):
            read_archive(path)


def test_an_archive_of_schema_1_1_deflated_and_without_checksums_is_still_read(bundle, tmp_path):
    description = json.loads((bundle / "bundle.json").read_text())
    del description["files"]
    write_archive(bundle, HANDLERS, tmp_path / "a.mar")
    files = read_files(tmp_path / "a.mar")[1]
    flat_handler(files)
    files["bundle.json"] = json.dumps({**description, "schema": "1.1.0"}).encode()
    with zipfile.ZipFile(tmp_path / "old.mar", "w") as old:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type, entry.create_system, entry.external_attr = (
                zipfile.ZIP_DEFLATED,
                3,
                0o644 << 16,
            )
            old.writestr(entry, data)
    assert read_archive(tmp_path / "old.mar").bundle.schema_version == "1.1.0"
    assert (tmp_path / "old.mar").stat().st_size < 0.6 * (tmp_path / "a.mar").stat().st_size


def test_a_later_minor_version_is_read_and_what_it_adds_kept(bundle, tmp_path):
    description = json.loads((bundle / "bundle.json").read_text())
    description["tasks"][0]["colour"] = "red"
    (bundle / "bundle.json").write_text(json.dumps({**description, "schema": "1.99.0", "extra": [1]}))
    write_archive(bundle, HANDLERS, tmp_path / "a.mar")
    archive = read_archive(tmp_path / "a.mar")
    assert (archive.bundle.extra, archive.tasks[0].colour) == ([1], "red")


@pytest.mark.parametrize(
    "change",
    [
        {"tasks": {}},
        {"tasks": []},
        {"tasks": [1]},
        {"tasks": [{"name": "a"}]},
        {"input": 3},
        {"neurons": "x"},
    ],
)
def test_a_bundle_of_another_form_is_refused(change, bundle, tmp_path):
    description = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps({**description, **change}))
    with pytest.raises(ArchiveError, match=rf"a\.mar was not written: bundle\.json: {next(iter(change))}"):
        write_archive(bundle, HANDLERS, tmp_path / "a.mar")
    assert not list(tmp_path.glob("*.mar*"))


def test_a_bundle_that_was_edited_after_it_was_written_is_not_packed(bundle, tmp_path):
    data = bytearray((bundle / "model.onnx").read_bytes())
    data[-100] ^= 1
    (bundle / "model.onnx").write_bytes(data)
    with pytest.raises(ArchiveError, match=r"SHA-256 of 'model\.onnx'"):
        write_archive(bundle, HANDLERS, tmp_path / "a.mar")


def test_any_other_zip_file_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.mar", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(ArchiveError, match=r"other\.mar: "):
        read_archive(tmp_path / "other.mar")


def test_reading_an_archive_needs_neither_torch_nor_the_method():
    code = "import sys, eideticnet.export.proof.verify; print({'torch', 'eideticnet.block'} & {*sys.modules})"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


def test_the_command_line_says_in_one_line_what_is_wrong(tmp_path):
    result = eidetic("export", tmp_path / "nothing").end()
    assert result.returncode == 1
    assert result.stderr.startswith("error: no checkpoint in")
    assert result.stderr.count("\n") == 1
