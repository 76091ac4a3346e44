"""The server that the page talks to, and what it tells of a model of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from eideticnet.client.command import Target
from eideticnet.contract.bundle import Input, Name, NotNegative
from eideticnet.contract.parts import Many, Open, told
from eideticnet.serving.errors import ServingError, no_answer
from eideticnet.serving.home.home import Home
from eideticnet.serving.key import Key

_SECONDS = 5.0
_PREFIX = "/predictions/"


@dataclass(frozen=True)
class Place:
    """Where requests go, the ``control`` port that describes and counts, and the server's folder where it
    runs on this machine."""

    target: Target
    control: str
    home: Home | None = None

    @property
    def model(self) -> str:
        return self.target.model


class ToldTask(Open):
    """A task, and its classes in the order of its logits."""

    name: Name
    classes: Annotated[Many[Name], Field(min_length=1)]


class Described(Open):
    """A model as ``x-eidetic`` of the OpenAPI document describes it."""

    version: Name
    input: Input
    tasks: Annotated[Many[ToldTask], Field(min_length=1)]
    threshold: NotNegative

    def zeros(self) -> npt.NDArray[Any]:
        """An instance that fits: zeros, or the value in range that is nearest to them."""
        spec = self.input
        low, high = (-np.inf if spec.low is None else spec.low), (np.inf if spec.high is None else spec.high)
        return np.full(spec.shape, min(max(0, low), high), spec.dtype)


def told_by(place: Place, path: str) -> str:
    """What the control port answers; ``ServingError`` where it does not. Only where requests go, too, is the
    key sent: what describes itself asks for it."""
    url, target = f"{place.control}{path}", place.target
    headers = {"Authorization": Key(target.key).header()} if place.control == target.url.rstrip("/") else {}
    try:
        response = httpx.get(url, headers=headers, timeout=_SECONDS, trust_env=False, verify=target.verify)
        response.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise no_answer(url, error) from None
    return response.text


def described(place: Place) -> Described:
    """What is served now; ``ServingError`` where the model is gone, or nothing is told of it."""
    where = f"{place.control}/openapi.json"
    try:
        paths = json.loads(told_by(place, "/openapi.json"))["paths"]
        served = {path.removeprefix(_PREFIX): item["post"] for path, item in paths.items() if _PREFIX in path}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ServingError(f"{where} is no description of a server: is --control its control port?") from None
    if (operation := served.get(quote(place.model))) is None:
        there = ", ".join(sorted(served)) or "none"
        raise ServingError(f"no model {place.model!r} is served at {place.target.url}; there are: {there}")
    found = operation.get("x-eidetic")
    try:
        return Described.model_validate(found)
    except ValidationError as error:
        raise ServingError(f"{where}, x-eidetic of {place.model}: {told(error, Described, found)}") from None
