"""A run as one HTML page that needs nothing else: no network, no data, no script, no other file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from eideticnet.errors import ConfigError
from eideticnet.files import write_whole
from eideticnet.learned import ROUTER
from eideticnet.network import EideticNetwork
from eideticnet.runs import history, plots
from eideticnet.runs.history import History, RoutedAnswers

SECTIONS = ("trunk", "training", "pruning", "routing", "router_pruning")
SETTINGS = ("threads", "test", "probes", "when_full")


def write_report(folder: Path, out: Path) -> None:
    """Write the page about the run in ``folder``; ``out`` is there whole or as it was before."""
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; name a file, such as {out / 'report.html'}")
    net = EideticNetwork.load(folder)
    page = render(net, title=str(net.metadata.get("config", {}).get("name", folder.resolve().name)))
    try:
        write_whole(out, page.encode())
    except OSError as error:
        raise ConfigError(f"can't write {out}: {error.strerror}; choose another --out") from error


def render(net: EideticNetwork, *, title: str) -> str:
    """The page; the same network gives the same text."""
    environment = Environment(
        loader=PackageLoader("eideticnet.runs", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": plots.percent, "ink_on": plots.ink_on, "shade": _shade}
    environment.filters["drift"] = lambda value: f"{value:.0e}" if value else "0"  # exactly 0
    return environment.get_template("report.html").render(_page(net, title)).strip() + "\n"


def _shown(value: Any) -> Any:
    """A value as the page shows it: text from outside made printable, mappings spelled out."""
    if isinstance(value, Mapping):
        value = ", ".join(f"{k} = {v}" for k, v in value.items())
    return plots.printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _page(net: EideticNetwork, title: str) -> dict[str, Any]:
    """Everything that the template shows."""
    past, table, tasks = history.read(net), net.capacity(), [t.name for t in net.tasks]
    owners = dict.fromkeys([*tasks, *(owner for layer in table.values() for owner in layer)])
    owners = {o: None for o in owners if o not in ("total", "free", ROUTER)}
    colours, routing = plots.palette(list(owners)), past.routing
    has_router = routing is not None or net.learned.router() is not None
    router = [ROUTER] if any(ROUTER in layer for layer in table.values()) else []
    learners = [*tasks, *router]
    return {
        "title": title,
        "tasks": _tasks(net, table),
        "total": sum(layer["total"] for layer in table.values()),
        "free": sum(layer["free"] for layer in table.values()),
        "numbers": {o: str(i + 1) for i, o in enumerate(owners)} | {ROUTER: "R", "free": ""},
        "colours": colours,
        "owners": [*owners, "free", *router],
        "router": sum(layer.get(ROUTER, 0) for layer in table.values()),
        "arithmetic": table.arithmetic,
        "layers": table,
        "history": past,
        "drifts": [d for moment in past.moments for d in moment.drift.values()],
        "routing": routing,
        "fitted": net.learned.routing,
        "has_router": has_router,
        "pruned": {n: past.pruning.get(n) for n in learners},
        "config": net.metadata.get("config"),
        "sections": SECTIONS,
        "settings": SETTINGS,
        "inputs": net.inputs,
        "seed": net.seed,
        "made_with": _made_with(past),
        "figures": _figures(past, routing, table, learners, colours),
    }


def _tasks(net: EideticNetwork, table: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """The rows of the first table."""
    reports, digests = net.metadata.get("report", {}), net.digests()
    return [
        {
            "name": task.name,
            "classes": task.classes,
            "neurons": sum(layer.get(task.name, 0) for layer in table.values()),
            "oracle": reports.get(task.name, {}).get("oracle"),
            "routed": reports.get(task.name, {}).get("routed"),
            "digest": digests[task.label],
        }
        for task in net.tasks
    ]


def _figures(
    past: History,
    routing: RoutedAnswers | None,
    table: Mapping[str, Mapping[str, int]],
    learners: list[str],
    colours: Mapping[str, str],
) -> dict[str, Any]:
    """Markup of every picture that can be drawn; those of pruning by the learner's name."""
    curves = {
        name: Markup(plots.pruning(past.pruning[name], f"pruning-{i}", colours[name]))
        for i, name in enumerate(learners)
        if name in past.pruning
    }
    return {
        "lanes": Markup(plots.lanes(past, colours)) if past.moments else None,
        "capacity": Markup(plots.capacity({g: row for g, row in table.items() if row["total"]}, colours)),
        "pruning": curves,
        "reliability": Markup(plots.reliability(routing)) if routing else None,
    }


def _made_with(past: History) -> dict[str, str]:
    """When and with what the run was trained; several values if it was continued elsewhere."""
    found: dict[str, dict[str, None]] = {}
    for moment in past.moments:
        for key, value in {"trained": moment.at, **moment.made_with}.items():
            found.setdefault(key, {})[value] = None
    times = list(found.pop("trained", {}))
    trained = {"trained": times[0] if len(times) == 1 else f"{times[0]} to {times[-1]}"} if times else {}
    return {**trained, **{key: ", ".join(values) for key, values in found.items()}}


def _shade(share: float) -> str:
    """A background from white to blue for a share from 0 to 1."""
    full = (0x08, 0x51, 0x9C)
    strength = share**0.7
    return "#" + "".join(f"{round(255 + (c - 255) * strength):02x}" for c in full)
