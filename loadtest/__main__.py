"""Command line: ``python -m loadtest`` loads the server that ``serving start --run`` tells of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from loadtest.objectives import read_plan

HERE = Path(__file__).parent


def main(
    plan: Annotated[Path, typer.Option(help="Users, seconds and objectives.")] = HERE / "objectives.toml",
    csv: Annotated[str, typer.Option(help="Write locust's CSV files with this prefix.")] = "",
) -> None:
    """Run locust without its web page; exit with 1 when an objective was missed."""
    missing = [
        n for n in ("EIDETIC_URL", "EIDETIC_KEY", "EIDETIC_MODEL", "EIDETIC_REQUEST") if n not in os.environ
    ]
    if missing:
        raise SystemExit(
            f"error: {', '.join(missing)} not set; run "
            "`python -m serving start ARCHIVE --run 'python -m loadtest'`"
        )
    try:
        wanted = read_plan(plan)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    command = [
        *(sys.executable, "-m", "locust", "-f", str(HERE / "users.py"), "--headless", "--only-summary"),
        *("--host", os.environ["EIDETIC_URL"], "--users", str(wanted.users)),
        *("--spawn-rate", str(wanted.users), "--run-time", f"{wanted.seconds}s", "--loglevel", "WARNING"),
        *(("--csv", csv) if csv else ()),
    ]
    environment = {**os.environ, "EIDETIC_OBJECTIVES": json.dumps(asdict(wanted.objectives))}
    raise SystemExit(subprocess.call(command, env={**environment, "PYTHONPATH": str(HERE.parent)}))


if __name__ == "__main__":
    typer.run(main)
