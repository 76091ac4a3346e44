"""The plan of a load test: who, how long, in which shape, and what has to be reached."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eideticnet.loadtest.shapes import SHAPES

KINDS = ("json", "raw", "image", "grpc")


@dataclass(frozen=True)
class Measured:
    """What was measured of some of the requests; latencies in milliseconds, over all that got through."""

    requests: int
    failures: int
    p50_ms: float
    p99_ms: float

    @property
    def error_rate(self) -> float:
        return self.failures / self.requests if self.requests else 1.0


@dataclass(frozen=True)
class Objectives:
    """Upper bounds, and the fewest requests that a result may rest on."""

    max_p50_ms: float
    max_p99_ms: float
    max_error_rate: float
    min_requests: int

    def missed(self, measured: Measured) -> list[str]:
        """A line for each objective that was missed."""
        upper = (
            ("p50", measured.p50_ms, self.max_p50_ms, "ms"),
            ("p99", measured.p99_ms, self.max_p99_ms, "ms"),
            ("error rate", measured.error_rate, self.max_error_rate, ""),
        )
        lines = [f"{name} is {is_:g} {unit}, may be {may:g}" for name, is_, may, unit in upper if is_ > may]
        if measured.requests < self.min_requests:
            lines.append(f"only {measured.requests} requests, needs {self.min_requests}")
        return lines


@dataclass(frozen=True)
class LoadPlan:
    """``users`` at most, for ``seconds``; ``kinds`` are the users' shares by kind.

    ``parts`` holds other objectives for a kind of user, or for ``hotload``: the requests that were on
    their way while a version was deployed.
    """

    users: int
    seconds: int
    objectives: Objectives
    shape: str = "steady"
    kinds: Mapping[str, int] = field(default_factory=lambda: {"json": 1})
    parts: Mapping[str, Objectives] = field(default_factory=dict)

    def missed(self, measured: Mapping[str, Measured]) -> list[str]:
        """A line for each objective that was missed or not measured; ``measured`` by part, "all" among
        them."""
        lines = self.objectives.missed(measured["all"])
        for part, wanted in self.parts.items():
            if part in measured:
                lines += [f"{part}: {line}" for line in wanted.missed(measured[part])]
            else:
                lines.append(f"{part}: was not measured")
        return lines


def read_plan(path: Path) -> LoadPlan:
    """The plan in a TOML file; raises ``ValueError`` that names the file if it is wrong."""
    try:
        return _plan(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error!r}") from error


def _plan(data: dict[str, Any]) -> LoadPlan:
    given = {name: value for name, value in data["objectives"].items() if not isinstance(value, dict)}
    objectives = Objectives(**given)
    tables = {name: value for name, value in data["objectives"].items() if isinstance(value, dict)}
    parts = {name: Objectives(**{**asdict(objectives), **table}) for name, table in tables.items()}
    rest = {name: value for name, value in data.items() if name != "objectives"}
    plan = LoadPlan(**rest, objectives=objectives, parts=parts)
    for name, known in (("shape", SHAPES), ("kinds", KINDS), ("objectives", (*KINDS, "hotload"))):
        said = {"shape": [plan.shape], "kinds": plan.kinds, "objectives": parts}[name]
        if wrong := sorted(set(said) - set(known)):
            raise ValueError(f"{name}: {wrong[0]!r} is not one of {', '.join(known)}")
    return plan
