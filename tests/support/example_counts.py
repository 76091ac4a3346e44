"""How many examples a property gets, and which kinds are tried, where each takes long."""

import os
from collections.abc import Collection, Iterable
from typing import Any

import pytest
from hypothesis import settings

ALL = "all"


def examples(few: int, many: int) -> settings:
    """``few``, or ``many`` where HYPOTHESIS_PROFILE is "all", as in ``make test-all``; no deadline."""
    return settings(max_examples=many if os.environ.get("HYPOTHESIS_PROFILE") == ALL else few, deadline=None)


def often(kinds: Iterable[Any], some: Collection[Any]) -> list[Any]:
    """``kinds`` as parameters, of which ``make test`` runs ``some``, and ``make test-all`` all."""

    def values(kind: Any) -> tuple[Any, ...]:
        return kind if isinstance(kind, tuple) else (kind,)

    return [pytest.param(*values(k), marks=() if k in some else pytest.mark.slow) for k in kinds]
