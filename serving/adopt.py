"""What a server is to serve when it starts: what it served before, and archives that are new to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eideticnet.serving.errors import ServingError
from eideticnet.serving.home import Home
from eideticnet.serving.state import State
from eideticnet.serving.store import admit


def adopt(
    home: Home, archives: Sequence[Path], *, allow_torch: bool = False, replace: bool = False
) -> tuple[State, list[str]]:
    """The state with ``archives`` in it, not yet written, and what is to be said about it.

    An archive that this home had before changes nothing: what was deployed since stays. Another archive of
    a model that is served takes its place only if ``replace`` says so, and then without a proof.
    """
    before = state = State.load(home.state)
    if not replace and not before.models and home.header.exists():
        raise ServingError(
            f"{home.state} is gone or names no model, though {home.root} has served: put it back, or begin "
            "anew with archives and --replace, or with another --home"
        )
    notes, given = [], dict[str, Path]()
    for path in archives:
        stored = admit(path, home.store, allow_torch=allow_torch)
        name, version = stored.archive.name, stored.version
        if name in given:
            raise ServingError(
                f"{given[name]} and {path} are both of model {name}; deploy one after the other"
            )
        given[name] = path
        known = before.models.get(name)
        seen = known is not None and version.sha256 in (known.default.sha256, *known.earlier)
        if known is None or (replace and not seen):
            state = state.replaced(name, version)
        elif not seen:
            raise ServingError(
                f"{path} is new here, and {name} is served already, version {known.default.version}. Start "
                f"without it, then: python -m eideticnet.serving deploy {path} --home {home.root}, which "
                "proves that nothing is forgotten; or --replace, without a proof"
            )
        elif known.default.sha256 != version.sha256:
            notes.append(f"{name} goes on with version {known.default.version}, which came after {path.name}")
    if not state.models:
        raise ServingError(f"nothing was ever served in {home.root}: give at least one archive")
    return state, notes
