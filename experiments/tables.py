"""``docs/experiments.md``: every experiment beside the paper's figures, from the files of results alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from eideticnet.experiments import results, settings
from eideticnet.experiments.measured import Accuracy, Measured
from eideticnet.experiments.pictures import compared, curves, lines
from eideticnet.experiments.results import Result
from eideticnet.experiments.settings import Plan, Published, Setting

INTRODUCTION = """# Experiments

The experiments of the paper, and what was found here. This page is generated from `experiments/*.toml` and
the files in `experiments/results`; what has no such file says "not run".

```sh no-run
pip install -c requirements/constraints.txt -e '.[train,cpu,experiments]'  # in a clone
eidetic experiment mnist5 --data FOLDER --seeds 0,1,2
```

An experiment is made of runs, one for each setting and seed, each in a process of one thread (`--device
cuda` for a GPU). A run that is interrupted goes on when the command is given again, and ends with the same
bits; `make experiments` goes through all that are made for a CPU. The result is written to
`runs/experiments/results/NAME.json`, or where `--results` says. Fine-tuning, EWC, PackNet and replay need
`make .venv-baselines/installed` first, and are left out otherwise. Data comes from the folder that `--data`
or `EIDETIC_DATA` names, which holds `mnist/train-images-idx3-ubyte.gz` and so on, `cifar-10-batches-bin`,
`cifar-100-binary` or `imagenette2-160`, as their makers publish them. What is not there is downloaded into
the user's cache, and its SHA-256 is compared.

How to read the tables:

* Accuracies are on the official test data, in per cent: means over classes, then tasks, then seeds, ± the
  standard deviation over seeds. Test data decides nothing: what is chosen is chosen on data that is held
  out of the training data.
* **Task given** is the paper's oracle. **Task found** is how often the network finds it, **routed** how
  often task and class are right; in a shared label space the class, whichever task says it.
* **Seconds** are those of all tasks and of the router.
* **Old data** is what an answer without a task id was made from. With `all` of it the network is
  *multi-task, routed*, and stands beside joint training only. With `memory K`, K examples of each earlier
  task are kept, and it stands beside replay of as many. With `none` it stands beside methods that keep
  none. With the task given no old data is needed.
* **Multiply-adds** of an answer without a task id are told as a multiple of the plain network's: the trunk
  with one head for all classes. Bytes are those of the network, and of what is kept beside it (examples,
  moments).
* In every run the logits of earlier tasks on their test data are compared, as integers, with those of the
  day they were learned: after each later task, and after the router. A run in which one differs ends there
  and has no result.
"""
HEAD = (
    "| | task given | task found | routed | old data | multiply-adds | MB + kept | neurons frozen | seconds |"
)
RULE = "|---|---|---|---|---|---|---|---|---|"
FEW = 20
"""Classes that are told one by one, also where the paper does not."""
NAMES = {
    "joint": "joint: all classes at once",
    "single": "single: a network for each task",
    "fine_tuning": "fine-tuning",
    "ewc": "EWC",
    "packnet": "PackNet",
    "replay": "replay",
}


def pages() -> dict[str, str]:
    """The page, and the pictures that it shows, by their paths in ``docs``."""
    plans = sorted(map(settings.read, settings.names()), key=lambda plan: plan.experiment.select)
    known = {plan.name: _result(plan) for plan in plans}
    parts = [INTRODUCTION, *("\n".join(_section(plan, known[plan.name])) for plan in plans)]
    drawn = [result for result in known.values() if result and _drawn(result)]
    pictures = {picture(result.name): lines(result) for result in drawn}
    pictures |= {picture(r.name, "_compared"): compared(r, NAMES) for r in drawn if len(curves(r)) > 1}
    return {"experiments.md": "\n".join(parts), **pictures}


def picture(name: str, kind: str = "") -> str:
    """Where a picture of an experiment lies in ``docs``."""
    return f"images/experiment_{name}{kind}.svg"


def _drawn(result: Result) -> bool:
    return bool(result.runs) and not result.selection


def _result(plan: Plan) -> Result | None:
    file: Path = results.FOLDER / f"{plan.name}.json"
    return results.read(file) if file.exists() else None


def _section(plan: Plan, result: Result | None) -> Iterator[str]:
    experiment = plan.experiment
    yield f"## {experiment.title}\n"
    device = f" --device {plan.raw['device']}" if plan.raw.get("device", "cpu") != "cpu" else ""
    yield f"```sh no-run\neidetic experiment {plan.name}{device}\n```\n"
    shortened = result.shortened if result else experiment.shortened
    if shortened:
        yield f"Shortened: {shortened}\n"
    if experiment.select:
        yield from _selection(plan, result)
        return
    yield from (HEAD, RULE)
    for setting in plan.settings:
        yield _row(setting.name or "EideticNet", list(_runs(result, setting)))
        yield from _paper_row(plan, setting)
    for method in experiment.baselines:
        yield _baseline(method, result)
    for name, oracle in experiment.paper.cited.items():
        yield f"| {name}, as the paper cites it | {oracle:.2f} | | | | | | | |"
    yield ""
    for setting in plan.settings:
        yield from _details(plan, setting, result)
    if result and _drawn(result):
        yield from _told(result)


def _runs(result: Result | None, setting: Setting) -> Sequence[Measured]:
    return list(result.runs.get(setting.name, {}).values()) if result else []


def _row(name: str, runs: Sequence[Measured]) -> str:
    if not runs:
        return f"| {name} | not run | | | | | | | |"
    kinds = [_spread([_of(run, kind).mean for run in runs]) for kind in ("oracle", "task", "routed")]
    kept = mean(run.bytes.memory + run.bytes.moments for run in runs)
    cells = [
        *kinds,
        _old(runs[0].saw),
        f"{mean(run.multiply_adds.share for run in runs):.2f}",
        f"{mean(run.bytes.network for run in runs) / 1e6:.2f} + {kept / 1e6:.2f}",
        f"{100 * mean(run.frozen for run in runs):.0f} %",
        f"{mean(sum(run.seconds.values()) for run in runs):,.0f}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def _old(saw: str) -> str:
    return "all: multi-task, routed" if saw == "all" else saw


def _paper_row(plan: Plan, setting: Setting) -> Iterator[str]:
    paper = plan.experiment.paper
    told = paper.settings.get(setting.name, paper if not setting.name else Published())
    cells = [_told_figure(told.oracle), "", _told_figure(told.routed)]
    frozen = "" if told.frozen is None else f"{told.frozen:.0f} %"
    if any(cells) or frozen:
        yield f"| the paper ({paper.where}) | {' | '.join(cells)} | | | | {frozen} | |"


def _told_figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _baseline(method: str, result: Result | None) -> str:
    name = NAMES.get(method, method)
    found = list(result.baselines.get(method, {}).values()) if result else []
    if not found:
        return f"| {name} | not run | | | | | | | |"
    network, kept = (mean(f[key] for f in found) / 1e6 for key in ("network_bytes", "memory_bytes"))
    cells = [
        _mean_of(found, "given"),
        "",
        _mean_of(found, "found"),
        str(found[0]["data_seen"]),
        f"{mean(f['multiply_adds'] for f in found):.2f}",
        f"{network:.2f} + {kept:.2f}",
        "",
        f"{mean(f['seconds'] for f in found):,.0f}" if "clock" in found[0] else "",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def _mean_of(found: Sequence[Mapping[str, Any]], kind: str) -> str:
    values = [each[kind]["mean"] for each in found if each.get(kind)]
    return _spread(values) if values else ""


def _spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, in per cent."""
    around = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.2f}{around}"


def _of(run: Measured, kind: str) -> Accuracy:
    found: Accuracy = getattr(run, kind)
    return found


def _selection(plan: Plan, result: Result | None) -> Iterator[str]:
    """Each setting by what it reached on held-out training data."""
    count = len(plan.config(plan.settings[0], plan.experiment.seeds[0]).tasks)
    yield (
        f"Chosen by the mean of {count} tasks, the task given, on a tenth of the training data "
        f"({plan.experiment.paper.where}); no test data is read.\n"
    )
    yield from ("| | held-out data | neurons frozen | |", "|---|---|---|---|")
    for setting in plan.settings:
        runs = _runs(result, setting)
        if not runs:
            yield f"| {setting.name} | not run | | |"
            continue
        frozen = 100 * mean(run.frozen for run in runs)
        mark = "chosen" if result and result.chosen == setting.name else ""
        yield f"| {setting.name} | {_spread([run.oracle.mean for run in runs])} | {frozen:.0f} % | {mark} |"
    yield ""


def _details(plan: Plan, setting: Setting, result: Result | None) -> Iterator[str]:
    """By task and by class, where there are runs."""
    runs, paper = _runs(result, setting), plan.experiment.paper
    if not runs:
        return
    told = paper.settings.get(setting.name, paper if not setting.name else Published())
    if among := [run.among.mean for run in runs if run.among is not None]:
        yield (
            "Means leave out the pretrained task, though the network may answer with it. "
            f"If it may not, {_spread(among)} are routed.\n"
        )
    if named := [run.named.mean for run in runs if run.named is not None]:
        yield (
            f"Tasks have classes of one name{f' ({setting.name})' if setting.name else ''}. Counted by name, "
            f"whichever task says it, {_spread(named)} are right.\n"
        )
    names = list(runs[0].oracle.tasks)
    yield f"By task{f' ({setting.name})' if setting.name else ''}:\n"
    by_task = {
        "task given": [mean(run.oracle.tasks[name] for run in runs) for name in names],
        "routed": [mean(run.routed.tasks[name] for run in runs) for name in names],
    }
    shown = {kind: [f"{100 * share:.2f}" for share in shares] for kind, shares in by_task.items()}
    shown["seconds"] = [f"{mean(run.seconds.get(name, 0.0) for run in runs):,.0f}" for name in names]
    if told.oracle_by_task:
        shown["the paper, task given"] = [f"{share:.0f}" for share in told.oracle_by_task]
    yield from _grid(names, shown)
    classes = [(task, name) for task, of in runs[0].oracle.classes.items() for name in of]
    if told.oracle_by_class or len(classes) <= FEW:
        yield from _classes(classes, runs, told)


def _classes(classes: Sequence[tuple[str, str]], runs: Sequence[Measured], told: Published) -> Iterator[str]:
    kinds = {"task given": "oracle", "routed": "routed"}
    columns = {
        words: [f"{100 * mean(_of(run, kind).classes[t][c] for run in runs):.2f}" for t, c in classes]
        for words, kind in kinds.items()
    }
    if told.oracle_by_class:
        columns["the paper, task given"] = [f"{share:.2f}" for share in told.oracle_by_class]
        columns["the paper, routed"] = [f"{share:.2f}" for share in told.routed_by_class]
    names = [name for _, name in classes]
    shown = [name if names.count(name) == 1 else f"{name} of {task}" for task, name in classes]
    yield "By class:\n"
    yield from _grid(shown, columns)


def _grid(names: Sequence[str], columns: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A row for each name."""
    yield f"| | {' | '.join(columns)} |"
    yield f"|---|{'---|' * len(columns)}"
    for row, name in enumerate(names):
        yield f"| {name} | {' | '.join(column[row] for column in columns.values())} |"
    yield ""


def _told(result: Result) -> Iterator[str]:
    """On what machine, and whether anything was forgotten."""
    runs = [run for of in result.runs.values() for run in of.values()]
    compared = sum(run.forgetting.compared for run in runs)
    changed = sum(len(run.forgetting.changed) for run in runs)
    seeds = ", ".join(dict.fromkeys(seed for of in result.runs.values() for seed in of))
    clock = "processor" if all(run.clock == "processor" for run in runs) else "wall-clock"
    yield (
        f"Seeds {seeds}, on {result.device}, torch {result.versions['torch']}, {clock} seconds. Logits of "
        f"earlier tasks were compared {compared} times, and {changed or 'none'} differed.\n"
    )
    yield f"![The accuracy of each task stays what it was]({picture(result.name)})\n"
    if len(curves(result)) > 1:
        yield f"![What other methods keep of earlier tasks]({picture(result.name, '_compared')})\n"
