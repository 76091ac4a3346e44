"""Command line: ``python -m export build RUN``."""

from __future__ import annotations

import shutil
import signal
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from eideticnet import EideticError, EideticNetwork
from export.archive import write_archive
from export.bundle import Format, write_bundle
from export.errors import ArchiveError, ExportError
from export.releases import RELEASES, release

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
HANDLERS = Path(__file__).parent.parent / "handlers"


@app.callback()
def main() -> None:
    """Turn checkpoints into bundles and model archives."""


@app.command()
def build(
    run: Annotated[Path, typer.Argument(help="Folder of a trained network.")],
    name: Annotated[str, typer.Option(help="The model's name; default: the run folder's.")] = "",
    model_version: Annotated[str, typer.Option(help="Default: the number of tasks, as N.0.")] = "",
    format: Annotated[Format, typer.Option(help="Graph format.")] = "onnx",
    store: Annotated[Path, typer.Option(help="Where the archive goes.")] = Path("model_store"),
    bundle: Annotated[Path | None, typer.Option(help="Also keep the bundle in this new folder.")] = None,
    max_instances: Annotated[int, typer.Option(min=1, help="Instances that one request may hold.")] = 64,
) -> None:
    """Export RUN to a bundle and pack it into STORE/NAME-VERSION.mar, whose path is printed."""
    if bundle is not None and bundle.exists():
        raise ExportError(f"{bundle} exists already; name a new folder")
    net = EideticNetwork.load(run)
    name = name or run.resolve().name
    model_version = model_version or f"{len(net.tasks)}.0"
    with tempfile.TemporaryDirectory(prefix="eidetic-bundle-") as temporary:
        folder = Path(temporary)
        write_bundle(
            net, folder, name=name, model_version=model_version, format=format, max_instances=max_instances
        )
        archive = store / f"{name}-{model_version}.mar"
        write_archive(folder, HANDLERS, archive)
        if bundle is not None:
            shutil.copytree(folder, bundle)
    typer.echo(archive)


@app.command()
def release_handlers() -> None:
    """Add the files in handlers/ to the released handlers, the only code that an archive may carry."""
    added = release(HANDLERS, version("eideticnet"))
    typer.echo(f"{RELEASES}: {'added' if added else 'they are in it already'}")


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # so that temporary folders are removed on the way out


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except (ExportError, ArchiveError, EideticError) as error:
        typer.secho(f"error: {error}", err=True, fg="red")
        raise SystemExit(1) from None
