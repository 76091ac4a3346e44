"""``make bench-paper``: what the experiments were to reach, read from their results, and time against masks.

The figures are those of ``experiments/results``, which ``eidetic experiment NAME`` writes; what is not there
is left out and named. ``routed_minus_joint`` is paired by seed. ``train.vs_masked`` is measured here, in
``benchmarks/masked.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from benchmarks.report import interval, publish
from eideticnet.experiments import results
from eideticnet.experiments.results import Result

ORACLE, ROUTED, AMONG, JOINT, MADDS = "oracle", "routed", "among", "joint", "madds"
WANTED = {
    "pmnist10.oracle": ("pmnist10", ORACLE),
    "mnist5.oracle": ("mnist5", ORACLE),
    "mnist5.routed": ("mnist5", ROUTED),
    "mnist5.joint": ("mnist5", JOINT),
    "mnist5.madds": ("mnist5", MADDS),
    "cifar10_5.mlp.routed": ("cifar10_5", ROUTED),
    "cifar10_5.mlp.joint": ("cifar10_5", JOINT),
    "cifar10_5.conv.routed": ("cifar10_5_conv", ROUTED),
    "cifar10_5.conv.joint": ("cifar10_5_conv", JOINT),
    "mnist5.k0.routed": ("mnist5_k0", ROUTED),
    "mnist5.k0.cheap": ("mnist5_k0", ROUTED),
    "mnist5.k0.cheap.madds": ("mnist5_k0", MADDS),
    "cifar10_5.pretrained.routed": ("cifar10_5_pretrained", ROUTED),
    "cifar10_5.pretrained.among": ("cifar10_5_pretrained", AMONG),
    "cifar10_5.pretrained.k0.routed": ("cifar10_5_pretrained_k0", ROUTED),
    "cifar10_5.pretrained.k0.among": ("cifar10_5_pretrained_k0", AMONG),
}
"""The experiment, and what of it."""


def by_seed(result: Result, what: str) -> dict[str, float]:
    """One figure of the first setting, seed by seed; empty where nothing ran."""
    if what == JOINT:
        return {seed: told["found"]["mean"] for seed, told in result.baselines.get(JOINT, {}).items()}
    runs = next(iter(result.runs.values()), {})
    return {
        seed: run.multiply_adds.share if what == MADDS else getattr(run, what).mean
        for seed, run in runs.items()
        if what != AMONG or run.among is not None
    }


def figures(known: Mapping[str, Result]) -> Iterator[tuple[str, list[float]]]:
    """Each key with its values over the seeds, as far as there are any, and differences paired by seed."""
    found = {key: by_seed(known[name], what) if name in known else {} for key, (name, what) in WANTED.items()}
    for key, values in found.items():
        if values:
            yield key, list(values.values())
    for trunk in ("mnist5", "cifar10_5.mlp", "cifar10_5.conv"):
        routed, joint = found[f"{trunk}.routed"], found[f"{trunk}.joint"]
        if both := [routed[seed] - joint[seed] for seed in routed if seed in joint]:
            yield f"{trunk}.routed_minus_joint", both


def main() -> None:
    """Publish what there is. ``--no-masked``: without measuring time."""
    parser = argparse.ArgumentParser(prog="benchmarks.paper", description=main.__doc__)
    parser.add_argument("--no-masked", action="store_true")
    measured = not parser.parse_args().no_masked
    known = {file.stem: results.read(file) for file in sorted(results.FOLDER.glob("*.json"))}
    columns, found = dict(figures(known)), dict[str, float]()
    for key, values in columns.items():
        found |= {key: sum(values) / len(values), f"{key}.ci95": interval(values)}
    details: dict[str, Any] = {"seeds": columns, "devices": {name: r.device for name, r in known.items()}}
    if measured:
        masked = import_module("benchmarks.masked").figures()
        found |= masked
    missing = [key for key in (*WANTED, "train.vs_masked") if key not in found]
    if missing:
        print(f"not run: {', '.join(missing)}")
    publish("paper", found, details | {"missing": missing})


if __name__ == "__main__":
    main()
