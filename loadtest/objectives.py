"""The plan of a load test: who, how long, in which shape, and what has to be reached."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PositiveInt, ValidationError
from pydantic.dataclasses import dataclass as checked

from eideticnet.contract.parts import in_words

Kind = Literal["json", "raw", "image", "grpc"]
NotNegative = Annotated[float, Field(ge=0)]
_STRICT = ConfigDict(strict=True, extra="forbid")


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


@checked(frozen=True, config=_STRICT)
class Objectives:
    """Upper bounds, and the fewest requests that a result may rest on."""

    max_p50_ms: NotNegative
    max_p99_ms: NotNegative
    max_error_rate: NotNegative
    min_requests: Annotated[int, Field(ge=0)]

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


@checked(frozen=True, config=_STRICT)
class LoadPlan:
    """``users`` at most, for ``seconds``; ``kinds`` are the users' shares by kind.

    ``parts`` holds other objectives for a kind of user, or for ``hotload``: the requests that were on
    their way while a version was deployed.
    """

    users: PositiveInt
    seconds: PositiveInt
    objectives: Objectives
    shape: Literal["steady", "ramp", "spike", "soak"] = "steady"
    kinds: dict[Kind, PositiveInt] = field(default_factory=lambda: {"json": 1})
    parts: dict[Literal["json", "raw", "image", "grpc", "hotload"], Objectives] = field(default_factory=dict)

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
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = " ".join(str(step) for step in first["loc"] if step != "[key]")
        found = f" is {first['input']!r}" if isinstance(first["input"], str | int | float) else ""
        raise ValueError(f"{path}: {place}{found}: {in_words(first)}") from None
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _plan(data: dict[str, Any]) -> LoadPlan:
    table = data.pop("objectives", None)
    if not isinstance(table, dict):
        raise ValueError("it has no [objectives]")
    objectives = Objectives(**{name: value for name, value in table.items() if not isinstance(value, dict)})
    others = {name: value for name, value in table.items() if isinstance(value, dict)}
    parts: Any = {name: Objectives(**{**asdict(objectives), **other}) for name, other in others.items()}
    return LoadPlan(**data, objectives=objectives, parts=parts)
