"""One form for all results: a line of JSON, and the same in ``results/NAME.json``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from eideticnet.runs.machine import processor, versions

RESULTS = Path(__file__).parent / "results"
PLOTS = Path(__file__).parents[1] / "docs/images"
"""Where the pages that show them find them."""
_PACKAGES = ("torch", "onnxruntime", "torchserve", "scikit-learn")


def interval(values: Sequence[float], confidence: float = 0.95) -> float:
    """Half the width of Student's confidence interval of the mean."""
    if len(values) < 2 or np.ptp(values) == 0:
        return 0.0
    return float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values))


def device() -> str:
    """The CPU's name, as the system tells it, and the number of cores."""
    return f"{processor()}, {os.cpu_count()} cores"


def publish(
    bench: str, figures: dict[str, float], details: dict[str, Any] | None = None, *, where: str = ""
) -> None:
    """Write ``results/BENCH.json``, with the details, and print the line without them. ``where`` names the
    device if it is not the CPU alone."""
    result: dict[str, Any] = {
        "bench": bench,
        "device": where or device(),
        "versions": versions(*_PACKAGES),
        "figures": {key: round(value, 6) for key, value in figures.items()},
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({**result, "details": details or {}}, indent=1)
    (RESULTS / f"{bench}.json").write_text(text + "\n")
    print(json.dumps(result))
