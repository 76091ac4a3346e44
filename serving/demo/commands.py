"""``eidetic demo``: a page on this machine for a server that runs here or elsewhere."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from eideticnet.client.command import DEFAULT_HOME, HomeFolder, given, served
from eideticnet.export.proof.options import MaxDrop, RoutingData
from eideticnet.export.proof.verify import MAX_DROP
from eideticnet.serving.demo.served import Place, described
from eideticnet.serving.deploys.policy import Policy
from eideticnet.serving.home.home import Home
from eideticnet.serving.home.running import find
from eideticnet.serving.supervise.start import BESIDE

_LOOK_SECONDS = 0.5
_QUIETLY = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}


def demo(
    home: HomeFolder = DEFAULT_HOME,
    url: Annotated[str, typer.Option(help="Another server; key from --keys or EIDETIC_KEY.")] = "",
    keys: Annotated[Path | None, typer.Option(help="The server's keys.json, with --url.")] = None,
    control: Annotated[
        str, typer.Option(help="Its control port's address, with --url; default: that one.")
    ] = "",
    name: Annotated[str, typer.Option("--name", help="The model; default: the only one there is.")] = "",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The page's own port; default: 7860, or a free one.")
    ] = None,
    store: Annotated[Path, typer.Option(help="Archives that the page may deploy.")] = Path("model_store"),
    routing_data: RoutingData = None,
    max_drop: MaxDrop = MAX_DROP,
) -> None:
    """Show a page to try a running server.

    It is also there to watch the server, and to deploy to it.

    On loopback alone. With --url it deploys nothing: that takes the server's folder.
    """
    if beside := os.environ.get(BESIDE):
        _end_with(int(beside))
    with tempfile.TemporaryDirectory(prefix="eidetic-demo-") as uploads:
        for each in [name for name in os.environ if name.startswith("GRADIO_")]:
            del os.environ[each]  # nothing but this file says what Gradio does
        os.environ |= {**_QUIETLY, "GRADIO_TEMP_DIR": uploads}  # read when it is imported
        from eideticnet.serving.demo.page import STYLE, Page
        from eideticnet.serving.demo.web import listening, serve

        if url:
            place = Place(given(url, keys, name), (control or url).rstrip("/"))
        else:
            place = Place(served(home, name), find(Home(home)).control, Home(home))
        model = described(place)
        page = Page(place, model, store, Policy(routing_data, max_drop))
        page.asking.ask(model.zeros(), None, None)  # a key that is wrong is told at once
        at = listening(port)
        try:
            serve(page.blocks(), STYLE, at, _tell)
        except KeyboardInterrupt:
            typer.echo("stopped")
        finally:
            page.close()


def _end_with(process: int) -> None:
    """End as by SIGTERM once ``process``, which started this one, is gone."""

    def watch() -> None:
        while os.getppid() == process:
            time.sleep(_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="beside", daemon=True).start()


def _tell(address: str) -> None:
    typer.echo(f"open {address} in a browser; Ctrl-C stops the page")
