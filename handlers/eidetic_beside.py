"""The runtime beside this file is the one that is imported, even if another one is installed.

An archive answers with the code that it was released and proven with. An installed ``eidetic_runtime`` may be
another version: one in site-packages comes after the archive on the path, but that of an editable install
is found before the path is looked at, its submodules too, and a .pth file may have imported it already.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

RUNTIME = "eidetic_runtime"
HERE = Path(__file__).parent


class Beside(MetaPathFinder):
    """Finds the runtime in ``HERE``, and every part of it in the runtime's folder, or nowhere."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] != RUNTIME:
            return None
        spec = PathFinder.find_spec(name, [str(HERE)] if name == RUNTIME else path)
        if spec is None:
            raise ModuleNotFoundError(f"{HERE} holds no {name}", name=name)
        return spec


def install() -> None:
    """Look here first from now on, and forget a runtime that was imported from elsewhere."""
    sys.meta_path.insert(0, Beside())
    found = sys.modules.get(RUNTIME)
    if found is None or [Path(p).resolve() for p in found.__path__] == [(HERE / RUNTIME).resolve()]:
        return
    for name in [name for name in sys.modules if name.partition(".")[0] == RUNTIME]:
        del sys.modules[name]


install()
