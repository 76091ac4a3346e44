"""``make bench-cifar10``: CIFAR-10 in five planned tasks, as ``experiments/cifar10.toml`` says it.

The run lies in ``runs/cifar10`` and goes on where it was interrupted: about an hour on one idle core, the
binary version of CIFAR-10 in the folder that ``EIDETIC_DATA`` names. Accuracies are on the official test
images, which are read for nothing else.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.report import publish
from eideticnet import EideticNetwork
from eideticnet.__main__ import main as eidetic
from eideticnet.runs import history

CONFIG = Path(__file__).parents[1] / "experiments/cifar10.toml"
RUN = Path("runs/cifar10")


def figures(net: EideticNetwork) -> dict[str, float]:
    """Accuracies by task and their means, the share of all neurons that each task owns, and its training
    accuracy before and after it was pruned to its share of the plan."""
    found, past, layers = dict[str, float](), history.read(net), net.capacity().values()
    for name, report in net.metadata["report"].items():
        found[f"{name}.oracle"], found[f"{name}.routed"] = report["oracle"], report["routed"]
        found[f"{name}.neurons"] = sum(row[name] for row in layers) / sum(row["total"] for row in layers)
        curve = past.pruning[name]
        found[f"{name}.before"] = curve.steps[0].accuracy
        found[f"{name}.after"] = curve.steps[0].accuracy if curve.after is None else curve.after
    for key in ("oracle", "routed"):
        values = [found[f"{task.name}.{key}"] for task in net.tasks]
        found[key] = sum(values) / len(values)
    return found


def main() -> None:
    """Learn what is not learned yet, and publish."""
    try:
        eidetic(["train", str(CONFIG), "--out", str(RUN)])
    except SystemExit as end:
        if end.code:
            raise
    net = EideticNetwork.load(RUN)
    assert net.learned.routing is not None, "the run is complete"
    details = {"capacity": net.capacity(), "router": net.learned.routing.router}
    publish("cifar10", figures(net), details | {"doubts": history.read(net).doubts})


if __name__ == "__main__":
    main()
