"""Every archive in attacks/ is refused, for its reason, without writing, running or inflating anything."""

import subprocess
import sys
from pathlib import Path

import pytest

from eideticnet.export.archive.reader import read_archive, read_files
from eideticnet.export.errors import ArchiveError

ROOT = Path(__file__).parents[2]
ATTACKS = Path(__file__).parent / "attacks"
PATH = "no plain relative path"
MEBIBYTES = 16

REASONS = {
    "absolute-path": ["'/tmp/escaped.py'", PATH],
    "anchors": ["model-config.yaml", "anchors"],
    "backslash-path": ["escaped.py", PATH],
    "bomb-declared": ["zip bomb", "1073"],
    "bomb-inflates": ["zip bomb", "'model.onnx' inflates to more"],
    "bomb-overlapping": ["'prefix/0.onnx' overlaps"],
    "changed-handler": ["'eidetic_handler.py' is not of a released handler"],
    "class-twice": ["task 'task 0' has two classes named 'é'"],
    "comment": ["34 bytes follow its end"],
    "control-character-in-a-name": ["'escaped\\n.py'", PATH],
    "direction-mark-in-a-task": ["\\u202e", "printable"],
    "drive-letter": ["'C:escaped.py'", PATH],
    "duplicate-by-case": ["'BUNDLE.json' is a duplicate of 'bundle.json'"],
    "duplicate-by-unicode": ["'ｂundle.json' is a duplicate of 'bundle.json'"],
    "duplicate-name": ["'eidetic_handler.py' is a duplicate"],
    "empty": ["no zip file", "cut short"],
    "encrypted": ["'model.onnx' is encrypted"],
    "escape-sequence-in-a-class": ["\\x1b", "printable"],
    "external-data": ["'model.onnx' refers to external data"],
    "external-data-in-an-inner-graph": ["'model.onnx' refers to external data"],
    "extra-field": ["'model.onnx' has extra fields"],
    "flipped-bit": ["'model.onnx' is damaged"],
    "flipped-bit-with-its-checksum": ["the SHA-256 of 'model.onnx'"],
    "folder-entry": ["'prefix/'", PATH],
    "foreign-config": ["model-config.yaml is not as an export writes it", "parallelType"],
    "format-of-another-file": ["'model.onnx' a file of format 'torchscript'"],
    "half-a-handler": ["handler files together are not of a released handler"],
    "hidden-file": ["does not begin at the end of the file before it"],
    "infinite-number": ["no strict JSON", "1e999"],
    "inner-parent-path": ["'prefix/../../escaped.py'", PATH],
    "key-twice": ["no strict JSON", "'name' twice"],
    "larger-batches-than-answers-allow": ["model-config.yaml has batchSize 32", "allows 1"],
    "many-workers": ["model-config.yaml is not as an export writes it", "1000000"],
    "missing-prefix": ["it lacks 'prefix/1.onnx'"],
    "model-elsewhere": ["bundle.json: model is '../model.onnx'"],
    "moderately-nested-json": ["nested too deeply"],
    "nested-json": ["nested too deeply"],
    "no-checksums": ["bundle.json", "files is missing"],
    "no-onnx": ["'model.onnx' is no valid ONNX file"],
    "no-probes": ["it lacks 'probes.safetensors'"],
    "no-width-in-a-class": ["\\u200b", "printable"],
    "no-zip-file": ["no zip file"],
    "not-a-number": ["no strict JSON", "NaN"],
    "other-content-by-the-local-header": ["'model.onnx'", "disagrees with the directory"],
    "other-handler-in-the-manifest": ["MANIFEST.json", "'handler' is 'image_classifier'"],
    "other-inputs": ["'model.onnx' has other inputs"],
    "other-name-in-the-local-header": ["'eidetic_handler.py'", "disagrees with the directory"],
    "other-version-in-the-manifest": ["MANIFEST.json", "'modelVersion' is '9.0'"],
    "oversized-json": ["'bundle.json' declares", "more than the 8388608 allowed"],
    "owner-twice": ["two tasks have the owner 't0'"],
    "parent-path": ["'../escaped.py'", PATH],
    "prefix-elsewhere": ["bundle.json: prefixes[0].file is '/etc/passwd'"],
    "prepended-data": ["something was put before it"],
    "prepended-data-that-offsets-count": ["does not begin at the end of the file before it"],
    "probes-of-another-shape": ["probes.safetensors for task 'task 0'", "(7,)"],
    "python-in-the-config": ["model-config.yaml is not as an export writes it", "constructor"],
    "requirements-in-the-manifest": ["MANIFEST.json", "'requirementsFile'"],
    "symbolic-link": ["'model.onnx' is a symbolic link"],
    "task-twice": ["two tasks are named 'task 0'"],
    "trailing-data": ["34 bytes follow its end"],
    "truncated": ["cut short"],
    "truncated-in-the-end-record": ["cut short, inside its end record"],
    "unexpected-file": ["it holds 'sitecustomize.py'"],
    "unknown-compression": ["'model.onnx' has the unknown compression method 99"],
    "unknown-major-version": ["schema 2.0.0", "reads schema 1"],
    "unlisted-handler-file": ["'eidetic_extra.py' is not of a released handler"],
    "folder-before-its-schema": ["it holds 'eidetic_runtime/model.py'", "schema 1.2.0"],
    "folder-in-the-runtime": ["it holds 'eidetic_runtime/inner/model.py'"],
    "compiled-code-in-the-runtime": ["it holds 'eidetic_runtime/__pycache__/model.cpython-311.pyc'"],
    "library-in-the-runtime": ["it holds 'eidetic_runtime/model.so'"],
    "half-a-runtime": ["'eidetic_runtime/model.py' is not of a released handler"],
    "unlisted-prefix": ["it holds 'prefix/0.onnx'"],
    "validation-of-another-shape": ["validation.safetensors holds x of shape [2, 7]", "[N, 6]"],
    "validation-of-no-numbers": ["validation.safetensors: x must hold finite numbers"],
    "validation-that-is-none": ["validation.safetensors can't be read"],
    "validation-with-another-tensor": ["validation.safetensors holds 'code'"],
    "validation-with-tasks-missing": ["validation.safetensors: task must hold one whole number for each"],
    "zip64": ["'model.onnx' is in zip64 form"],
}


@pytest.mark.parametrize("name", REASONS)
def test_an_attack_is_refused_in_one_line_that_names_file_and_reason(name):
    with pytest.raises(ArchiveError) as error:
        read_archive(ATTACKS / f"{name}.mar")
    message = str(error.value)
    assert message.startswith(str(ATTACKS / f"{name}.mar"))
    assert [words for words in REASONS[name] if words not in message] == []
    assert message.isprintable()


def test_every_attack_in_the_folder_has_its_reason_here_and_is_small():
    files = {path.stem: path.stat().st_size for path in ATTACKS.glob("*.mar")}
    assert set(files) == {*REASONS, "base"}
    assert max(files.values()) < 20_000


def test_the_archive_that_the_attacks_are_made_of_is_good():
    archive, files = read_files(ATTACKS / "base.mar")
    assert (archive.name, archive.version, archive.bundle.schema_version) == ("tiny", "1.0", "1.2.0")
    assert archive.probes["t0"].shape == (8, 6)
    assert set(files) > {*archive.bundle.files, "bundle.json"}


def test_the_attacks_are_what_their_script_makes(tmp_path):
    subprocess.run([sys.executable, ATTACKS / "make.py", tmp_path], check=True)
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {path.name for path in ATTACKS.glob("*.mar")} - {"base.mar"}
    # Another version of zlib may pack these five otherwise.
    packed = {"bomb-declared", "bomb-inflates", "oversized-json", "nested-json", "anchors"}
    for name in made - {f"{name}.mar" for name in packed}:
        assert (tmp_path / name).read_bytes() == (ATTACKS / name).read_bytes(), name


WATCHED = """
import os, sys, tracemalloc
from pathlib import Path
from eideticnet.export.archive.reader import read_archive
from eideticnet.export.errors import ArchiveError

read_archive(Path(sys.argv[1]) / "base.mar")  # whatever is imported late is imported now

FORBIDDEN = ("os.", "shutil.", "subprocess.", "socket.", "exec", "import", "ctypes.", "tempfile.")
READING = ("os.listdir", "os.scandir")

def watch(event, arguments):
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        print("wrote", arguments)
    if event.startswith(FORBIDDEN) and event not in READING:
        print("did", event, arguments)

sys.addaudithook(watch)
for path in sorted(Path(sys.argv[1]).glob("*.mar")):
    tracemalloc.start()
    try:
        read_archive(path)
    except ArchiveError:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if peak > int(sys.argv[2]) << 20:
        print(path.name, "took", peak, "bytes")
print("read all")
"""


def test_no_attack_writes_a_file_runs_anything_or_takes_much_memory(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", WATCHED, ATTACKS, str(MEBIBYTES)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "read all\n"
    assert list(tmp_path.iterdir()) == []
