"""Real inputs, by which routing is judged: files of them, checked as a server checks requests.

Imports neither torch nor eideticnet.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as load_tensors

from eideticnet.contract.bundle import Bundle, BundledTask, Input
from eideticnet.export.errors import ArchiveError, InputsError
from eideticnet.files import LARGEST, open_regular

Array = npt.NDArray[Any]
_ZIP, _LARGEST_HEADER = b"PK\3\4", 100 << 20
_NAMES = {"x", "task", "label", *("pinned", "threshold", "time")}  # the last are those of a recording


@dataclass(frozen=True)
class LabeledInputs:
    """Real inputs ``x`` (N, *shape); ``task`` and ``label`` (N,) are indices, None where unknown."""

    x: Array
    task: Array | None
    label: Array | None
    source: str


def read_inputs(path: Path, spec: Input, what: str = "routing data") -> LabeledInputs:
    """``x``, and where known ``task`` and ``label``, of an .npz or .safetensors file that fits the
    input contract ``spec``; ``InputsError`` names what does not, ``what`` what it is for."""
    if path.suffix not in (".npz", ".safetensors"):
        raise InputsError(f"can't read {what} {path}: expected a file .npz or .safetensors")
    try:
        with open_regular(path) as raw:
            arrays = _npz(raw) if path.suffix == ".npz" else _safetensors(raw)
    except ArchiveError as error:
        text = str(error).removeprefix(f"{path} ")
        raise InputsError(f"can't read {what} {path}: {text}") from None
    except OSError as error:
        raise InputsError(f"can't read {what} {path}: {error.strerror or error}") from error
    except MemoryError:
        raise InputsError(f"can't read {what} {path}: it needs more memory than there is") from None
    except Exception as error:  # of numpy, zipfile and three decompressors, each with errors of its own
        raise InputsError(f"can't read {what} {path}: {error}") from error
    return real_inputs(arrays, spec, str(path))


def _npz(raw: BufferedReader) -> dict[str, Array]:
    """The arrays of a zip file of .npy files, which may say how large they become, and be believed."""
    if raw.peek(len(_ZIP))[: len(_ZIP)] != _ZIP:
        raise ArchiveError("is no .npz file, as numpy.savez writes")
    with ZipFile(raw) as packed:
        size = sum(entry.file_size for entry in packed.infolist())
        names = [entry.filename.removesuffix(".npy") for entry in packed.infolist()]
    if size > LARGEST:
        raise ArchiveError(f"becomes {size} bytes; expected {LARGEST} at most")
    if len(set(names)) < len(names):
        raise ArchiveError("holds an array twice; readers differ in which one they take")
    raw.seek(0)
    with np.load(raw, allow_pickle=False) as file:
        try:
            found = {name: file[name] for name in file.files}
        except ValueError as error:
            if "pickle" not in str(error):
                raise
            raise ArchiveError("holds Python objects, which are never loaded; expected numbers") from None
    return {name: array for name, array in found.items() if isinstance(array, np.ndarray)}


def _safetensors(raw: BufferedReader) -> dict[str, Array]:
    """The tensors of a file that is as long as its header says."""
    size, head = os.fstat(raw.fileno()).st_size, int.from_bytes(raw.read(8), "little")
    try:
        if head > _LARGEST_HEADER:
            raise ValueError(head)
        tensors = json.loads(raw.read(head))
        spans = [t["data_offsets"][1] for name, t in tensors.items() if name != "__metadata__"]
        told = 8 + head + max(spans, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise ArchiveError("is no .safetensors file: its header can't be read") from None
    if told != size:
        raise ArchiveError(f"has {size} bytes, and {told} by its header")
    raw.seek(0)
    try:
        return load_tensors(raw.read())
    except KeyError as error:
        raise ArchiveError(f"holds tensors of type {error}, which numpy has not; expected float32") from None


def real_inputs(arrays: dict[str, Array], spec: Input, source: str) -> LabeledInputs:
    """``arrays`` by name as checked inputs."""
    if "x" in arrays and (strange := sorted(arrays.keys() - _NAMES)):
        raise InputsError(f"{source} holds {strange[0]!r}; expected x, and where known task and label")
    if "label" in arrays and "task" not in arrays:
        raise InputsError(f"{source} holds label without task, which says whose label it is")
    x = arrays.get("x")
    if x is None or x.ndim < 1 or x.shape[1:] != spec.shape or not len(x):
        shape = "no x" if x is None else f"x of shape {list(x.shape)}"
        raise InputsError(f"{source} holds {shape}; expected x of shape [N, {str(list(spec.shape))[1:-1]}]")
    for name in ("task", "label"):
        if name in arrays and (arrays[name].shape != (len(x),) or arrays[name].dtype.kind not in "iu"):
            raise InputsError(f"{source}: {name} must hold one whole number for each of the {len(x)} rows")
    task, label = (None if n not in arrays else arrays[n].astype(np.int64) for n in ("task", "label"))
    return LabeledInputs(_cast(x, spec, source), task, label, source)


def check_indices(real: LabeledInputs, tasks: Sequence[BundledTask]) -> None:
    """``InputsError`` unless every task and label of ``real`` is one of a bundle's ``tasks``: rows of others
    would be wrong by any version, so they would show no fall."""
    if real.task is None:
        return
    _check_range(real, "task", real.task, np.full(len(real.x), len(tasks)), "the list of tasks")
    if real.label is not None:
        classes = np.array([len(task.classes) for task in tasks])
        _check_range(real, "label", real.label, classes[real.task], "the classes of its own task")


def known(real: LabeledInputs, task: int, bundle: Bundle) -> Array:
    """Which rows (N,) of ``real``, whose tasks are known, are of this ``task`` and of a class that it has in
    the version of ``bundle``: a later one may have learned more."""
    assert real.task is not None
    rows: Array = real.task == task
    return rows if real.label is None else rows & (real.label < len(bundle.tasks[task].classes))


def right(real: LabeledInputs, task: Array, label: Array, bundle: Bundle) -> Array:
    """Which rows (N,) are answered as ``real`` says, whose tasks are known, by ``task`` and ``label`` (N,).
    Where labels are shared it is the class that counts, or that the task knows it."""
    found: Array = np.zeros(len(task), bool)
    for number in range(len(bundle.tasks)):
        rows = known(real, number, bundle)
        mine = task[rows] == number if not bundle.classes else np.isin(label[rows], bundle.numbers(number))
        found[rows] = (
            mine if real.label is None else mine & (label[rows] == numbered(real.label[rows], number, bundle))
        )
    return found


def numbered(label: Array, task: int, bundle: Bundle) -> Array:
    """Each ``label`` (N,) of this task as a version answers it."""
    found: Array = np.array(bundle.numbers(task))[label]
    return found


def _check_range(real: LabeledInputs, name: str, values: Array, ends: Array, where: str) -> None:
    wrong = np.flatnonzero((values < 0) | (values >= ends))
    if len(wrong):
        row = int(wrong[0])
        expected = f"expected a place in {where}, 0 to {int(ends[row]) - 1}"
        raise InputsError(f"{real.source}: {name} is {int(values[row])} in row {row}; {expected}")


def _cast(x: Array, spec: Input, source: str) -> Array:
    """``x`` in the contract's type, if that keeps its values and they are such as a server accepts."""
    if x.dtype.kind not in "biuf":
        raise InputsError(f"{source} holds x of type {x.dtype}; expected numbers of type {spec.dtype}")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = np.ascontiguousarray(x, spec.dtype)
    if not np.isfinite(cast).all() or (spec.dtype == "int64" and not (cast == x).all()):
        kind = "whole numbers of 64 bits" if spec.dtype == "int64" else "finite numbers"
        raise InputsError(f"{source}: x must hold {kind}, as requests do")
    low, high = spec.low, spec.high
    if (low is not None and (cast < low).any()) or (high is not None and (cast > high).any()):
        raise InputsError(f"{source}: x holds values that no request may have; expected {low} to {high}")
    return cast
