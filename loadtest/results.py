"""From the requests that were written down to figures: for all, by kind, during and outside a deploy."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eideticnet.loadtest.objectives import LoadPlan, Measured


@dataclass(frozen=True)
class Hotload:
    """A deploy in the middle of the load: when it began and ended (Unix time), and how."""

    archive: str
    began: float
    ended: float
    status: int


@dataclass(frozen=True)
class Samples:
    """One entry for each request; ``failed`` holds reasons, "" for none. ``started`` in Unix time."""

    started: npt.NDArray[np.float64]
    ms: npt.NDArray[np.float64]
    kind: npt.NDArray[np.str_]
    version: npt.NDArray[np.str_]
    failure: npt.NDArray[np.str_]

    @classmethod
    def read(cls, path: Path) -> Samples:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        text = {n: np.array([row[n] for row in rows], str) for n in ("kind", "version", "failure")}
        numbers = {n: np.array([float(row[n]) for row in rows]) for n in ("started", "ms")}
        return cls(**numbers, **text)

    @property
    def failed(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.failure != "")

    def during(self, hotload: Hotload) -> npt.NDArray[np.bool_]:
        """Those that were on their way at some moment of the deploy."""
        return np.asarray((self.started < hotload.ended) & (self.started + self.ms / 1000 > hotload.began))

    def measured(self, which: npt.NDArray[np.bool_]) -> Measured:
        good = self.ms[which & ~self.failed]
        p50, p99 = np.percentile(good, (50, 99)) if len(good) else (0.0, 0.0)
        return Measured(int(which.sum()), int((which & self.failed).sum()), float(p50), float(p99))


def parts(samples: Samples, hotload: Hotload | None) -> dict[str, npt.NDArray[np.bool_]]:
    """Which requests belong to which part."""
    found = {"all": np.ones(len(samples.ms), bool)}
    found |= {str(kind): samples.kind == kind for kind in np.unique(samples.kind)}
    if hotload:
        during = samples.during(hotload)
        found |= {"hotload": during, "outside": ~during}
    return found


def summary(plan: LoadPlan, samples: Samples, hotload: Hotload | None) -> dict[str, Any]:
    """All figures, and a line for each objective that was missed."""
    which = parts(samples, hotload)
    measured = {part: samples.measured(mask) for part, mask in which.items()}
    missed = plan.missed(measured)
    if hotload and hotload.status:
        missed.append(f"hotload: the deploy ended with status {hotload.status}")
    elif hotload and hotload.began and len(set(samples.version) - {""}) < 2:
        missed.append("hotload: the new version answered no request")
    return {
        "plan": asdict(plan),
        "parts": {part: _figures(samples, mask, measured[part]) for part, mask in which.items()},
        "versions": dict(Counter(str(v) for v in samples.version if v)),
        "failures": dict(Counter(str(f) for f in samples.failure if f).most_common(20)),
        "hotload": asdict(hotload) if hotload else None,
        "missed": missed,
    }


def _figures(samples: Samples, mask: npt.NDArray[np.bool_], measured: Measured) -> dict[str, float]:
    ms = samples.ms[mask]
    seconds = float(np.ptp(samples.started[mask])) if len(ms) > 1 else 0.0
    return {
        **asdict(measured),
        "max_ms": float(ms.max(initial=0.0)),
        "over_500_ms": int((ms > 500).sum()),
        "error_rate": measured.error_rate,
        "seconds": seconds,
    }


def write(folder: Path, found: dict[str, Any]) -> None:
    """``summary.json``, and the parts once more as ``parts.csv``."""
    (folder / "summary.json").write_text(json.dumps(found, indent=1) + "\n")
    with (folder / "parts.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, ["part", *next(iter(found["parts"].values()))])
        rows.writeheader()
        rows.writerows({"part": part, **figures} for part, figures in found["parts"].items())
