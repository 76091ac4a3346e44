"""Objectives: read from a file, compared with what locust measured."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measured:
    """What one run measured; latencies in milliseconds, over all answered requests."""

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
class Plan:
    """How long and with how many users to load a server, and what it has to reach."""

    users: int
    seconds: int
    objectives: Objectives


def read_plan(path: Path) -> Plan:
    """The plan in a TOML file; raises ``ValueError`` that names the file if it is wrong."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        return Plan(data["users"], data["seconds"], Objectives(**data["objectives"]))
    except (OSError, KeyError, TypeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: {error!r}") from error
