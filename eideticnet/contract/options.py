"""What a request may ask for, beside its input. Null is as if it was not there."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from eideticnet.contract.parts import AS_GIVEN, Closed

YEAR_10000 = 253_402_300_800_000
"""In milliseconds. What is later is no number of milliseconds: today in nanoseconds, or in microseconds."""


class RequestOptions(Closed):
    """The options of a request."""

    task: str | None = None
    """Ask this task instead of finding the task."""
    threshold: Annotated[float, Field(ge=0, le=1), AS_GIVEN] | None = None
    """Answer unknown where the router is less sure of the task, or of a shared label, than this."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """How many of the likeliest labels of the task answered to list."""
    probabilities: bool | None = None
    """Tell the probability of every task and of every label of the task answered."""
    deadline_ms: Annotated[float, Field(ge=0, lt=YEAR_10000), AS_GIVEN] | None = None
    """Unix time in milliseconds after which the answer is no longer needed."""
