"""What every replica is to hold: the ``user_config`` of the deployment, where a ``serve.yaml`` says it.

``{"models": {"digits": {"default": "5.0", "versions": {"5.0": {"archive": ..., "sha256": ...}}}},
"token_sha256": ...}``. A server of ``eidetic serve`` keeps the same in the cluster's memory instead, and
``{"follow": SERVER}`` says so: Serve takes a replica out of the rotation while its ``user_config`` changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eideticnet.contract.parts import told
from eideticnet.serving.errors import ServingError
from eideticnet.serving.home.state import CLOSED, Sha256

MEMORY = "ray"
"""The scheme of archives that lie in Ray's own memory: ``ray:FILE``."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Source(_Part):
    """Where an archive comes from, a path or a URL that fsspec reads, and the SHA-256 that it must have."""

    archive: Annotated[str, Field(min_length=1)]
    sha256: Sha256

    @property
    def file(self) -> str:
        """The archive's own name."""
        return self.archive.removeprefix(f"{MEMORY}:").rstrip("/").rpartition("/")[2]


class Wanted(_Part):
    """The versions of a model, and which of them answers who names none; ``CLOSED``: none does."""

    default: Annotated[str, Field(min_length=1)]
    versions: dict[str, Source] = Field(default_factory=dict)


class Desired(_Part):
    """All models by name. ``token_sha256`` is the SHA-256 of the token that requests have to carry; "" where
    none is asked for. ``allow_torch``: also archives that can run any code when they are loaded."""

    models: dict[str, Wanted] = Field(default_factory=dict)
    allow_torch: bool = False
    token_sha256: Sha256 | Annotated[str, Field(pattern="^$")] = ""

    @classmethod
    def read(cls, config: Any) -> Desired:
        """A ``user_config``; ``ServingError`` names what is wrong with it."""
        config = {} if config is None else config
        try:
            found = cls.model_validate(config)
        except ValidationError as error:
            raise ServingError(f"user_config: {told(error, cls, config)}") from None
        for name, model in found.models.items():
            if model.default not in (CLOSED, *model.versions):
                known = ", ".join(model.versions) or "none"
                raise ServingError(
                    f"user_config: models.{name}.default is {model.default!r}; its versions are {known}"
                )
        return found

    def sources(self) -> Iterator[tuple[str, str, Source]]:
        """Model, version and archive of all that is to be held."""
        for name, model in self.models.items():
            for version, source in model.versions.items():
                yield name, version, source

    def with_model(self, name: str, model: Wanted | None) -> Desired:
        """The same with ``model`` in the place of the one of that name, or without it."""
        models = {known: each for known, each in self.models.items() if known != name}
        return self.model_copy(update={"models": models | ({name: model} if model else {})})

    def reopened(self) -> Desired:
        """The same, with a default for every model: a server that was to stop, and was killed, is no more."""
        closed = {name: each for name, each in self.models.items() if each.default == CLOSED}
        models = {
            name: Wanted(default=next(iter(each.versions)), versions=each.versions)
            for name, each in closed.items()
        }
        return self.model_copy(update={"models": {**self.models, **models}})

    def without(self, name: str, version: str) -> Desired:
        """The same without a version. Where it was the default, another one is, if there is any; a model that
        takes no more work goes on so."""
        model = self.models.get(name)
        if model is None:
            return self
        left = {label: source for label, source in model.versions.items() if label != version}
        if not left:
            return self.with_model(name, None)
        default = model.default if model.default in (CLOSED, *left) else next(iter(left))
        return self.with_model(name, Wanted(default=default, versions=left))
