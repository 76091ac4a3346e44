"""``eidetic loadtest`` loads the server that ``eidetic serve --run`` tells of."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from eideticnet.loadtest.objectives import LoadPlan, read_plan
from eideticnet.loadtest.results import Hotload, Samples, summary, write
from eideticnet.serving.errors import ServingError

HERE = Path(__file__).parent
_NEEDED = ("EIDETIC_URL", "EIDETIC_KEYS", "EIDETIC_MODEL", "EIDETIC_EXAMPLE")


def loadtest(
    plan: Annotated[
        Path, typer.Option(help="Users, seconds and objectives.", show_default="the plan that comes with it")
    ] = HERE / "objectives.toml",
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/loadtest"),
    deploy: Annotated[Path | None, typer.Option(help="Deploy this archive in the middle.")] = None,
    accept_unmeasured_routing: Annotated[
        bool, typer.Option("--accept-unmeasured-routing", help="Passed on to the deploy.")
    ] = False,
) -> None:
    """Hold a running server to objectives.

    Writes figures and plots to OUT; exits with 1 when an objective was missed.
    """
    try:
        wanted = read_plan(plan)
    except ValueError as error:
        raise ServingError(str(error)) from None
    if "hotload" in wanted.parts and deploy is None:
        raise ServingError(f"{plan} has objectives for a hot-load: --deploy ARCHIVE says of what")
    _check_environment(wanted, deploy)
    out.mkdir(parents=True, exist_ok=True)
    command = ["deploy", str(deploy)] if deploy else []
    if deploy and accept_unmeasured_routing:
        command.append("--accept-unmeasured-routing")
    hotload = _load(plan, wanted, out / "samples.csv", command)
    samples = Samples.read(out / "samples.csv")
    found = summary(wanted, samples, hotload)
    write(out, found)
    if len(samples.ms):
        _draw(out, samples, hotload)
    _show(found, out)
    raise SystemExit(1 if found["missed"] else 0)


def _check_environment(plan: LoadPlan, deploy: Path | None) -> None:
    needed = [*_NEEDED]
    needed += ["EIDETIC_GRPC"] if "grpc" in plan.kinds else []
    needed += ["EIDETIC_HOME"] if deploy else []
    if missing := [name for name in needed if name not in os.environ]:
        raise ServingError(
            f"{', '.join(missing)} not set; run "
            "`eidetic serve ARCHIVE --run 'eidetic loadtest --deploy NEXT'`"
        )


def _load(plan: Path, wanted: LoadPlan, samples: Path, deploy: list[str]) -> Hotload | None:
    """Run locust without its web page and, after two fifths of the time, the deploy."""
    command = [
        *(sys.executable, "-m", "locust", "-f", str(HERE / "users.py"), "--headless", "--only-summary"),
        *("--host", os.environ["EIDETIC_URL"], "--loglevel", "WARNING", "--exit-code-on-error", "0"),
    ]
    environment = {**os.environ, "EIDETIC_PLAN": str(plan.resolve())}
    environment["EIDETIC_SAMPLES"] = str(samples.resolve())
    samples.unlink(missing_ok=True)
    locust = subprocess.Popen(command, env=environment)
    try:
        hotload = _hotload(deploy, samples, 0.4 * wanted.seconds, locust) if deploy else None
        if locust.wait():
            raise ServingError(f"locust ended with status {locust.returncode}")
    finally:
        locust.kill()
    return hotload


def _hotload(deploy: list[str], samples: Path, seconds: float, locust: subprocess.Popen[Any]) -> Hotload:
    """Deploy ``seconds`` after the load began."""
    while not samples.exists() and locust.poll() is None:
        time.sleep(0.05)
    time.sleep(seconds)
    home = os.environ["EIDETIC_HOME"]
    began = time.time()
    status = subprocess.call([sys.argv[0], *deploy, "--home", home])
    return Hotload(deploy[1], began, time.time(), status)


def _draw(out: Path, samples: Samples, hotload: Hotload | None) -> None:
    try:
        from eideticnet.loadtest.plots import draw
    except ModuleNotFoundError as error:
        print(f"no plots: they need {error.name}, of the extra called report")
    else:
        draw(out / "load.svg", samples, hotload)


def _show(found: dict[str, Any], out: Path) -> None:
    table = Table(title="load test")
    table.add_column("requests")
    for heading in ("sent", "failed", "p50 ms", "p99 ms", "max ms"):
        table.add_column(heading, justify="right")
    for part, f in found["parts"].items():
        counts = (str(f["requests"]), str(f["failures"]))
        table.add_row(part, *counts, *(f"{f[n]:.1f}" for n in ("p50_ms", "p99_ms", "max_ms")))
    Console(emoji=False).print(table)
    for failure, count in found["failures"].items():
        print(f"failed {count} times: {failure}")
    for line in found["missed"]:
        print(f"objective missed: {line}")
    if not found["missed"]:
        print("all objectives met")
    print(f"results: {out}")
