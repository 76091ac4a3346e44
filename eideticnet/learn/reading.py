"""Which earlier tasks a new one reads: all of them (nested), some, or none (disjoint), layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from eideticnet.errors import DataError
from eideticnet.learned import Learned
from eideticnet.program import Program

Reads = Sequence[str] | Mapping[str, Sequence[str]] | None
"""Names of tasks to read; by the path of a layer, or of a module that contains it, if they differ
between layers (layers that are not named read everyone). None reads everyone everywhere."""


@dataclass(frozen=True)
class Reading:
    """Owners whose pieces a block gets, and by path those of them that a layer does not read."""

    owners: tuple[str, ...]
    unread: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def reads_everyone(self, learned: Learned) -> bool:
        """Whether every layer reads all earlier owners."""
        return not self.unread and len(self.owners) == len(learned.tasks)


def owners_of(reads: Reads, learned: Learned, program: Program) -> Reading:
    """The owners behind the names in ``reads``, in the order of learning."""
    everyone = tuple(t.owner for t in learned.tasks)
    if reads is None:
        return Reading(everyone)
    if isinstance(reads, Mapping):
        unread = {}
        for path, names in reads.items():
            check_path(path, program)
            read = _owners(names, learned)
            unread[path] = tuple(o for o in everyone if o not in read)
        return Reading(everyone, {path: owners for path, owners in unread.items() if owners})
    read = _owners(reads, learned)
    return Reading(tuple(o for o in everyone if o in read))


def _owners(names: Iterable[str], learned: Learned) -> set[str]:
    if isinstance(names, str):
        raise DataError(f"reads: give a list of task names, not the text {names!r}")
    current = {t.name: t.owner for t in learned.current()}
    unknown = sorted(set(names) - set(current))
    if unknown:
        known = ", ".join(map(repr, current)) or "none"
        raise DataError(f"reads: no task {unknown[0]!r}; known: {known}")
    return {current[name] for name in names}


def check_path(path: str, program: Program) -> None:
    """Raise ``DataError`` unless there is a layer ``path``, or one in it."""
    if not any(f"{layer}.".startswith(f"{path}.") for layer in program.layers):
        raise DataError(f"reads: no layer {path!r}; layers: {', '.join(program.layers)}")
