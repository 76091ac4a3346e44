"""What a server is meant to serve: ``state.json``, the one truth that the engine is brought to.

``{"schema": 1, "models": {"digits": {"default": {"version", "file", "sha256"}, "previous": ...}}}``.
Writing it is the commit of a deploy: before, the old version is the right one, after it the new one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from eideticnet.contract.parts import Many
from eideticnet.serving.errors import ServingError, Unavailable
from eideticnet.serving.home.files import JsonFile

FileName = Annotated[str, Field(pattern=r"^[^/\\]+\.mar$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

CLOSED = "_stopping"
"""A version without workers that is the default while a server stops. No archive's may begin like this."""


class Version(JsonFile):
    """One version of a model: its name, and its archive in the store."""

    version: Annotated[str, Field(min_length=1)]
    file: FileName
    sha256: Sha256


class Model(JsonFile):
    """``default`` answers; ``previous`` is what ``rollback`` goes back to. ``earlier``: the SHA-256 of
    every archive that was the default once, and is not now."""

    default: Version
    previous: Version | None = None
    earlier: Many[Sha256] = ()


class State(JsonFile):
    """The desired state, by the model's name."""

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    models: dict[str, Model] = Field(default_factory=dict)
    trusted: Many[str] = Field(default=(), exclude_if=lambda trusted: not trusted)
    """Those, in PEM, of whom one must have signed whatever is served from now on; anybody's while empty."""

    @classmethod
    def load(cls, path: Path) -> State:
        """The state in ``path``, and an empty one if nothing was ever served."""
        return cls.read(path) if os.path.lexists(path) else cls()

    @classmethod
    def known(cls, path: Path) -> State:
        """The state of a server that runs, which always has one: ``Unavailable`` where ``path`` is gone,
        can't be read, or names no model."""
        state = cls.read(path)
        if not state.models:
            raise Unavailable(f"{path} names no model; a server serves one at least")
        return state

    def only(self, name: str = "") -> str:
        """``name`` if that model is served, or the name of the only one there is."""
        known = ", ".join(sorted(self.models)) or "none"
        if not name and len(self.models) == 1:
            return next(iter(self.models))
        if not name:
            raise ServingError(f"which model? Give its --name; served here: {known}")
        if name not in self.models:
            raise ServingError(f"no model {name!r} is served here; there are: {known}")
        return name

    def replaced(self, name: str, version: Version) -> State:
        """With ``version`` as the default of ``name``, and the default so far as its previous one.

        Two archives of one version can't be told apart by who asks for it, so such a one is not kept.
        """
        old = self.models.get(name)
        if old is None:
            return self._with({**self.models, name: Model(default=version)})
        previous = old.default if old.default.version != version.version else None
        earlier = {*old.earlier, old.default.sha256} - {version.sha256}
        model = Model(default=version, previous=previous, earlier=tuple(sorted(earlier)))
        return self._with({**self.models, name: model})

    def without(self, name: str) -> State:
        """No more of this model; ``ServingError`` if it is the last."""
        if self.models.keys() == {name}:
            raise ServingError(
                f"{name} is the only model here, and a server serves one at least: deploy another one first, "
                "or stop the server"
            )
        return self._with({known: model for known, model in self.models.items() if known != name})

    def trusting(self, trusted: Sequence[str]) -> State:
        """With these in place of those who are trusted so far, if there are any."""
        return self.model_copy(update={"trusted": tuple(trusted)}) if trusted else self

    def _with(self, models: dict[str, Model]) -> State:
        return self.model_copy(update={"models": models})

    def files(self) -> set[str]:
        """The archives in the store that are needed."""
        kept = [v for model in self.models.values() for v in (model.default, model.previous)]
        return {version.file for version in kept if version is not None}
