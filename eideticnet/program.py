"""The plain trunk as data: a list of steps, and the groups of neurons that they share.

A program holds no weights and no code, so it is stored as JSON and a network is rebuilt from
its checkpoint without the Python class that it was traced from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

INPUT = "input"
HEAD = "task_head"


@dataclass(frozen=True)
class Run:
    """``repeat`` consecutive columns for each neuron of ``group``: one for a plain neuron, more
    where a neuron is an attention head or where positions were flattened.

    ``places``: which columns of the plain trunk these are, where runs lie among one another because
    channels were shuffled; all runs of a value have them then. Somebody's fewer columns lie in the order
    in which the trunk's first ones do.
    """

    group: str
    repeat: int = 1
    places: tuple[int, ...] = ()

    def times(self, count: int) -> Run:
        """The same with every column repeated, the copies side by side."""
        places = tuple(p * count + i for p in self.places for i in range(count))
        return Run(self.group, self.repeat * count, places)


@dataclass(frozen=True)
class Features:
    """Where the neurons of a value lie: along dimension ``dim``, counted from the last (-1), one
    run after the other, and all runs ``tile`` times over.

    No runs means that the value was computed from the raw input alone: no task owns it, and
    every block computes it whole for itself.
    """

    dim: int = -1
    runs: tuple[Run, ...] = ()
    tile: int = 1

    @property
    def raw(self) -> bool:
        return not self.runs

    @property
    def placed(self) -> bool:
        """Whether the runs lie among one another."""
        return any(run.places for run in self.runs)

    def columns(self, widths: Mapping[str, int]) -> int:
        """How many columns an owner has whose neurons in each group are ``widths``."""
        return self.tile * sum(widths[run.group] * run.repeat for run in self.runs)

    def at(self, dim: int) -> Features:
        """The same features along another dimension."""
        return Features(dim, self.runs, self.tile)

    def repeated(self, times: int) -> Features:
        """The same neurons with every column repeated, the copies side by side."""
        return Features(self.dim, tuple(run.times(times) for run in self.runs), self.tile)


@dataclass(frozen=True)
class Step:
    """One operation of the trunk: ``name = rule(inputs)``.

    ``layer`` is the path of the stock layer that holds its weights, None where there are none;
    ``options`` are the layer's constructor arguments or the operation's literals.
    """

    name: str
    rule: str
    inputs: tuple[str, ...]
    features: Features
    layer: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """Steps in order of execution, the last one being the head; ``groups`` maps each feature
    group to its capacity, the number of neurons that the plain trunk has there."""

    steps: tuple[Step, ...]
    groups: dict[str, int]

    @cached_property
    def features(self) -> dict[str, Features]:
        """Where the neurons of each value lie, by the value's name."""
        return {INPUT: Features(), **{s.name: s.features for s in self.steps}}

    @cached_property
    def layers(self) -> dict[str, Step]:
        """The step that describes each layer with weights, by the layer's path."""
        return {s.layer: s for s in reversed(self.steps) if s.layer is not None}

    @cached_property
    def kin(self) -> list[list[str]]:
        """The groups of each layer together, where channels are shuffled and the neurons of one layer are cut
        into many small groups; elsewhere each group alone."""
        parts = {str(s.layer): str(s.layer).rpartition(".")[0] for s in self.steps if s.rule == "conv_part"}
        if not parts and not any(step.features.placed for step in self.steps):
            return [[group] for group in self.groups]
        found: dict[str, list[str]] = {}
        for group in self.groups:
            path = group.partition("[")[0]
            found.setdefault(parts.get(path, path), []).append(group)
        return list(found.values())

    @cached_property
    def last_read(self) -> dict[str, int]:
        """The place of the last step that reads each value, or of its own if none does."""
        places = {step.name: place for place, step in enumerate(self.steps)}
        return places | {name: place for place, step in enumerate(self.steps) for name in step.inputs}

    @cached_property
    def ends(self) -> list[list[str]]:
        """For each step the values that no later step reads."""
        return ends([self])

    def widened(self, added: Mapping[str, int]) -> Program:
        """The same with more neurons in these groups; blocks that exist stay as they are."""
        return Program(self.steps, {g: n + added.get(g, 0) for g, n in self.groups.items()})

    @cached_property
    def steps_json(self) -> list[dict[str, Any]]:
        """The steps as JSON; every digest needs them."""
        return [asdict(step, dict_factory=_said) for step in self.steps]

    def to_json(self) -> dict[str, Any]:
        return asdict(self, dict_factory=_said)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Program:
        return cls(tuple(_step(s) for s in data["steps"]), dict(data["groups"]))


def ends(programs: Iterable[Program]) -> list[list[str]]:
    """For each place the values that no step of any of ``programs`` reads after it."""
    last: dict[str, int] = {}
    for program in programs:
        last |= {name: max(place, last.get(name, place)) for name, place in program.last_read.items()}
    over: list[list[str]] = [[] for _ in range(max(last.values(), default=-1) + 1)]
    for name, place in last.items():
        over[place].append(name)
    return over


def spread(count: int, there: Mapping[str, int], least: Mapping[str, int]) -> dict[str, int]:
    """A number of a layer's neurons by group: what each needs at ``least`` of those that are ``there``, then
    wherever most are left."""
    given = dict.fromkeys(there, 0)
    for _ in range(min(count, sum(there.values()))):
        needed = [g for g, n in there.items() if given[g] < min(n, least.get(g, 0))]
        given[max(needed or there, key=lambda g: there[g] - given[g])] += 1
    return given


def _said(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of a dataclass; a run's places only where it has some."""
    return {name: value for name, value in pairs if name != "places" or value}


def _step(data: dict[str, Any]) -> Step:
    features = data["features"]
    runs = tuple(Run(r["group"], r["repeat"], tuple(r.get("places", ()))) for r in features["runs"])
    where = Features(features["dim"], runs, features["tile"])
    return Step(**{**data, "inputs": tuple(data["inputs"]), "features": where})


Widths = Mapping[str, int]
"""Neurons owned in each feature group, and under ``HEAD`` the number of classes."""
