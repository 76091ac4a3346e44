"""The options of the proof, which ``verify`` and ``deploy`` have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RoutingData = Annotated[
    Path | None, typer.Option(help="Real inputs, .npz or .safetensors, with x and maybe task and label.")
]
MaxDrop = Annotated[float, typer.Option(min=0, max=1, help="By how much the routing of a task may fall.")]
