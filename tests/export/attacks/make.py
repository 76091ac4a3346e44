"""Make the archives in this folder: ``python tests/export/attacks/make.py [FOLDER]``.

``base.mar`` is good: a tiny network, exported once (``--base`` makes another one) and deflated to be small.
Every other archive is ``base.mar`` with one thing wrong, and so refused for that reason alone; what is
not wrong keeps its packed bytes, so that the same files come out on any machine.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from rawzip import SYMBOLIC_LINK, Entry, deflated, read, stored, write
from safetensors.numpy import save as save_tensors

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
MODEL, BUNDLE, HANDLER = "model.onnx", "bundle.json", "eidetic_handler.py"
CONFIG, MANIFEST, PROBES = "model-config.yaml", "MAR-INF/MANIFEST.json", "probes.safetensors"
HARMLESS = b"print('this would have been run')\n"
UTF8 = 0x800

Attack = Callable[[], bytes]
ATTACKS: dict[str, Attack] = {}
# What zlib packs anew may differ by its version.
DEFLATED = {"bomb-declared", "bomb-inflates", "oversized-json", "nested-json", "anchors"}


def attack(make: Attack) -> Attack:
    """Register an archive under the function's name."""
    ATTACKS[make.__name__.replace("_", "-")] = make
    return make


def entries(*changed: Entry, without: str = "") -> list[Entry]:
    """The entries of ``base.mar`` with some replaced, others added at the end."""
    good = dict(read(HERE / "base.mar")[0])
    good.pop(without, None)
    return list((good | {entry.name: entry for entry in changed}).values())


def content(name: str) -> bytes:
    return read(HERE / "base.mar")[1][name]


def bundle(**changes: Any) -> dict[str, Any]:
    return {**json.loads(content(BUNDLE)), **changes}


def with_file(path: str) -> bytes:
    """The archive with one file more."""
    return write(entries(stored(path, HARMLESS)))


def described(**changes: Any) -> bytes:
    """The archive with a changed ``bundle.json``; a change to None removes."""
    text = json.dumps({k: v for k, v in bundle(**changes).items() if v is not None}, ensure_ascii=False)
    return write(entries(stored(BUNDLE, text.encode())))


def told(text: str) -> bytes:
    """The archive with ``text`` put into the object of ``bundle.json``."""
    return write(entries(stored(BUNDLE, content(BUNDLE).rstrip()[:-1] + f", {text}}}".encode())))


def consistent(**files: bytes) -> bytes:
    """The archive with other files (``__`` is a dot), of which bundle.json states the SHA-256."""
    renamed = {name.replace("__", "."): data for name, data in files.items()}
    sums = {name: sha256(data).hexdigest() for name, data in renamed.items()}
    text = json.dumps(bundle(files=bundle()["files"] | sums), ensure_ascii=False)
    return write(entries(stored(BUNDLE, text.encode()), *(stored(n, d) for n, d in renamed.items())))


def with_tasks(changes: list[dict[str, Any]]) -> bytes:
    """The archive with a task for each of ``changes``."""
    return described(tasks=[{**bundle()["tasks"][0], **changed} for changed in changes])


def manifest(**changes: Any) -> bytes:
    text = json.loads(content(MANIFEST))
    return write(entries(stored(MANIFEST, json.dumps({**text, "model": text["model"] | changes}).encode())))


# Paths, links and names.
for kind, path in {
    "parent-path": "../escaped.py",
    "inner-parent-path": "prefix/../../escaped.py",
    "absolute-path": "/tmp/escaped.py",
    "backslash-path": "..\\escaped.py",
    "drive-letter": "C:escaped.py",
    "folder-entry": "prefix/",
    "control-character-in-a-name": "escaped\n.py",
    "unexpected-file": "sitecustomize.py",
    "unlisted-prefix": "prefix/0.onnx",
    "unlisted-handler-file": "eidetic_extra.py",
    "folder-before-its-schema": "eidetic_runtime/model.py",
    "folder-in-the-runtime": "eidetic_runtime/inner/model.py",
    "compiled-code-in-the-runtime": "eidetic_runtime/__pycache__/model.cpython-311.pyc",
    "library-in-the-runtime": "eidetic_runtime/model.so",
    "duplicate-by-case": "BUNDLE.json",
}.items():
    ATTACKS[kind] = partial(with_file, path)


@attack
def duplicate_by_unicode() -> bytes:
    return write(entries(stored("ｂundle.json", HARMLESS, flags=UTF8)))


@attack
def duplicate_name() -> bytes:
    return write([*entries(), stored(HANDLER, HARMLESS)])


@attack
def symbolic_link() -> bytes:
    return write(entries(stored(MODEL, b"/etc/passwd", external=SYMBOLIC_LINK)))


# Sizes.
@attack
def bomb_declared() -> bytes:
    return write(entries(deflated(MODEL, bytes(10_000), size=1 << 30)))


@attack
def bomb_inflates() -> bytes:
    return write(entries(deflated(MODEL, bytes(8 << 20), size=4096)))


@attack
def bomb_overlapping() -> bytes:
    """Many entries that share one file's bytes."""
    shared = stored(MODEL, content(MODEL)[:2000])
    others = [shared.changed(name=f"prefix/{i}.onnx", offset=0) for i in range(20)]
    return write([*entries(shared), *others])


@attack
def oversized_json() -> bytes:
    return write(entries(deflated(BUNDLE, content(BUNDLE) + b" " * (9 << 20))))


@attack
def zip64() -> bytes:
    extra = b"\1\0\x08\0" + (len(content(MODEL))).to_bytes(8, "little")
    return write(entries(stored(MODEL, content(MODEL), size=(1 << 32) - 1, extra=extra)))


# The container.
@attack
def encrypted() -> bytes:
    return write(entries(stored(MODEL, content(MODEL), flags=1)))


@attack
def unknown_compression() -> bytes:
    return write(entries(stored(MODEL, content(MODEL), method=99)))


@attack
def other_name_in_the_local_header() -> bytes:
    return write(entries(stored(HANDLER, content(HANDLER), local={"name": "eidetic_Handler.py"})))


@attack
def other_content_by_the_local_header() -> bytes:
    """Whoever believes the local header unpacks fewer bytes."""
    short = content(MODEL)[:100]
    return write(entries(stored(MODEL, content(MODEL), local={"size": len(short)})))


@attack
def hidden_file() -> bytes:
    """A file between two others, which only a reader of local headers sees."""
    first, *rest = entries()
    hidden = write([stored("sitecustomize.py", HARMLESS)]).partition(b"PK\1\2")[0]
    return write([first, rest[0].changed(local={"packed": rest[0].packed + hidden}), *rest[1:]])


@attack
def extra_field() -> bytes:
    return write(entries(stored(MODEL, content(MODEL), extra=b"up\4\0name")))


@attack
def comment() -> bytes:
    return write(entries(), comment=HARMLESS)


@attack
def trailing_data() -> bytes:
    return write(entries()) + HARMLESS


@attack
def prepended_data() -> bytes:
    return HARMLESS + write(entries())


@attack
def prepended_data_that_offsets_count() -> bytes:
    return write(entries(), before=HARMLESS)


@attack
def truncated() -> bytes:
    return write(entries())[:-4000]


@attack
def truncated_in_the_end_record() -> bytes:
    return write(entries())[:-5]


@attack
def no_zip_file() -> bytes:
    return HARMLESS


@attack
def empty() -> bytes:
    return b""


# Weights and graphs.
@attack
def flipped_bit() -> bytes:
    data = bytearray(content(MODEL))
    data[len(data) // 2] ^= 1
    return write(entries(stored(MODEL, content(MODEL), packed=bytes(data))))


@attack
def flipped_bit_with_its_checksum() -> bytes:
    data = bytearray(content(MODEL))
    data[len(data) // 2] ^= 1
    return write(entries(stored(MODEL, bytes(data))))


@attack
def no_checksums() -> bytes:
    return described(files=None)


@attack
def no_onnx() -> bytes:
    return consistent(model__onnx=b"not a graph")


@attack
def external_data() -> bytes:
    model = onnx.load_from_string(content(MODEL))
    _make_external(next(t for t in model.graph.initializer if t.raw_data))
    return consistent(model__onnx=model.SerializeToString(deterministic=True))


@attack
def external_data_in_an_inner_graph() -> bytes:
    model = onnx.load_from_string(content(MODEL))
    constant = onnx.helper.make_node("Constant", [], ["inner"])
    tensor = onnx.TensorProto(name="inner", data_type=onnx.TensorProto.FLOAT, dims=[8])
    _make_external(tensor)
    constant.attribute.append(onnx.helper.make_attribute("value", tensor))
    value = onnx.helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, [8])
    inner = onnx.helper.make_graph([constant], "inner", [], [value])
    condition = onnx.helper.make_tensor("always", onnx.TensorProto.BOOL, [], [True])
    model.graph.initializer.append(condition)
    chosen = onnx.helper.make_node("If", ["always"], ["chosen"], then_branch=inner, else_branch=inner)
    model.graph.node.append(chosen)
    return consistent(model__onnx=model.SerializeToString(deterministic=True))


def _make_external(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")


@attack
def other_inputs() -> bytes:
    return described(graph={**bundle()["graph"], "inputs": ["x", "task", "threshold"]})


@attack
def probes_of_another_shape() -> bytes:
    return described(input={**bundle()["input"], "shape": [7]})


@attack
def no_probes() -> bytes:
    return write(entries(without=PROBES))


def with_validation(**tensors: np.ndarray) -> bytes:
    return consistent(validation__safetensors=save_tensors(tensors))


for kind, tensors in {
    "validation-of-another-shape": {"x": np.zeros((2, 7), np.float32)},
    "validation-of-no-numbers": {"x": np.full((2, 6), np.nan, np.float32)},
    "validation-with-tasks-missing": {"x": np.zeros((2, 6), np.float32), "task": np.zeros(1, np.int64)},
    "validation-with-another-tensor": {"x": np.zeros((2, 6), np.float32), "code": np.zeros(3, np.uint8)},
}.items():
    ATTACKS[kind] = partial(with_validation, **tensors)


@attack
def validation_that_is_none() -> bytes:
    return consistent(validation__safetensors=HARMLESS)


# Code and configuration.
@attack
def larger_batches_than_answers_allow() -> bytes:
    return described(limits={**bundle()["limits"], "max_batch": 1})


@attack
def changed_handler() -> bytes:
    return write(entries(stored(HANDLER, HARMLESS + content(HANDLER))))


@attack
def half_a_runtime() -> bytes:
    text = json.dumps(bundle(schema="1.5.0")).encode()
    return write(entries(stored(BUNDLE, text), stored("eidetic_runtime/model.py", HARMLESS)))


@attack
def half_a_handler() -> bytes:
    return write(entries(without="eidetic_answer.py"))


@attack
def other_handler_in_the_manifest() -> bytes:
    return manifest(handler="image_classifier")


@attack
def requirements_in_the_manifest() -> bytes:
    return manifest(requirementsFile="requirements.txt")


@attack
def other_version_in_the_manifest() -> bytes:
    return manifest(modelVersion="9.0")


@attack
def foreign_config() -> bytes:
    return write(entries(stored(CONFIG, b"minWorkers: 1\nparallelType: custom\n")))


@attack
def many_workers() -> bytes:
    return write(entries(stored(CONFIG, b"minWorkers: 1000000\n")))


@attack
def python_in_the_config() -> bytes:
    return write(entries(stored(CONFIG, b"!!python/object/apply:os.system ['true']\n")))


@attack
def anchors() -> bytes:
    lines = [b"a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]".encode() for i in range(1, 20)]
    return write(entries(deflated(CONFIG, b"\n".join(lines))))


# bundle.json.
@attack
def key_twice() -> bytes:
    return told('"name": "other"')


@attack
def not_a_number() -> bytes:
    return told('"accuracy": {"share": NaN}')


@attack
def infinite_number() -> bytes:
    return told('"accuracy": {"share": 1e999}')


@attack
def nested_json() -> bytes:
    return write(entries(deflated(BUNDLE, b"[" * 100_000 + b"]" * 100_000)))


@attack
def moderately_nested_json() -> bytes:
    return told('"accuracy": {"deep": ' + "[" * 200 + "]" * 200 + "}")


for kind, changes in {
    "unknown-major-version": {"schema": "2.0.0"},
    "model-elsewhere": {"model": "../model.onnx"},
    "prefix-elsewhere": {"prefixes": [{"tasks": 1, "file": "/etc/passwd", "bytes": 1}]},
    "missing-prefix": {"prefixes": [{"tasks": 1, "file": "prefix/1.onnx", "bytes": 1}]},
    "format-of-another-file": {"format": "torchscript"},
}.items():
    ATTACKS[kind] = partial(described, **changes)

for kind, names in {
    "task-twice": [{}, {"owner": "t1"}],
    "owner-twice": [{}, {"name": "other"}],
    "class-twice": [{"classes": ["é", "e\u0301"]}],
    "escape-sequence-in-a-class": [{"classes": ["a", "\x1b[2J"]}],
    "direction-mark-in-a-task": [{"name": "task \u202e0"}],
    "no-width-in-a-class": [{"classes": ["cat", "ca\u200bt"]}],
}.items():
    ATTACKS[kind] = partial(with_tasks, names)


def make_base() -> bytes:
    """A good archive: one task of two classes on a trunk of 3 and 3 neurons."""
    sys.path.insert(0, str(ROOT))
    from eideticnet.export.archive.writer import write_archive
    from eideticnet.export.bundle.writer import write_bundle
    from tests.support.small_networks import trained

    with tempfile.TemporaryDirectory() as temporary:
        folder, archive = Path(temporary) / "bundle", Path(temporary) / "base.mar"
        folder.mkdir()
        write_bundle(trained(1, (3, 3)), folder, name="tiny", model_version="1.0")
        write_archive(folder, ROOT / "handlers", archive)
        return write([deflated(name, data) for name, data in read(archive)[1].items()])


def main(folder: Path) -> None:
    for name, make in ATTACKS.items():
        (folder / f"{name}.mar").write_bytes(make())


if __name__ == "__main__":
    if sys.argv[1:] == ["--base"]:
        (HERE / "base.mar").write_bytes(make_base())
    main(Path(sys.argv[1]) if sys.argv[1:2] not in ([], ["--base"]) else HERE)
