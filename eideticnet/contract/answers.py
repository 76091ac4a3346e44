"""What a request is answered: a row for each instance, or an error."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, Field, model_validator

from eideticnet.contract.parts import STRICT, Closed, Many

Probability = Annotated[float, Field(ge=0, le=1.000001)]


class _Told(BaseModel):
    """What a server says; what a newer one adds is passed over."""

    model_config = STRICT


class Choice(_Told):
    """A label and its probability, under the task that was answered."""

    label: str
    """The class."""
    probability: Probability
    """The task's own, or where labels are shared all tasks'."""


class Answer(_Told):
    """The answer to one instance. ``task``, ``label`` and ``label_probability`` are None when it
    is ``unknown``; ``task_probability`` is then the router's for its best guess. It is None where
    the task was pinned and the router was not asked."""

    task: str | None
    """The task answered, null for none of mine."""
    label: str | None
    """The class, null for none of mine."""
    unknown: bool
    """Whether no task claims the input."""
    pinned: bool
    """Whether the request named the task."""
    task_probability: Probability | None
    """The router's, of that task or its best guess; null where it was not asked."""
    label_probability: Probability | None
    """The task's own, of that label, where labels are shared all tasks'; null for none of mine."""
    model_version: str
    """The version that answered."""
    top: Many[Choice] = ()
    """The likeliest labels of the task answered, or of all that tasks share; the first is the answer."""
    task_probabilities: dict[str, Probability] = Field(default_factory=dict)
    """The router's, of every task."""
    label_probabilities: dict[str, Probability] = Field(default_factory=dict)
    """Those of all labels of the task answered, or of all that tasks share."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if {value is None for value in (self.task, self.label, self.label_probability)} != {self.unknown}:
            raise ValueError(
                "task, label and label_probability have to be null if it is unknown, and only then"
            )
        return self


class Answers(_Told):
    """The answers to a request of several instances."""

    predictions: Many[Answer] = Field(min_length=1)
    """One answer for each instance, in their order."""


class Problem(Closed):
    """What is wrong with a request, or with the server."""

    kind: str
    """What to do about it, for programs."""
    field: str
    """Where the request is wrong."""
    message: str
    """What is wrong and what is expected."""


class Failure(Closed):
    """The answer to a request that can't be answered."""

    error: Problem
    """What is wrong."""
