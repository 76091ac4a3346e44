"""How many users there are at which moment of a load test. Knows no locust, whose import changes the
standard library's sockets and locks."""

from __future__ import annotations

import math
from collections.abc import Callable

Shape = Callable[[float], float]


def steady(moment: float) -> float:
    """All of them, all the time."""
    return 1.0


def ramp(moment: float) -> float:
    """One more after the other, until all are there at the end."""
    return moment


def spike(moment: float) -> float:
    """A quarter of them, and for the fifth in the middle all at once."""
    return 1.0 if 0.4 <= moment < 0.6 else 0.25


def soak(moment: float) -> float:
    """Half of them: what a server should bear for hours; a matter of ``seconds``."""
    return 0.5


SHAPES: dict[str, Shape] = {"steady": steady, "ramp": ramp, "spike": spike, "soak": soak}
"""The share of the users, by the share of the time that has passed (0 to 1)."""


def users_at(shape: str, seconds_gone: float, users: int, seconds: float) -> int | None:
    """The number of users, at least one; None when the test is over."""
    if seconds_gone >= seconds:
        return None
    return max(1, math.ceil(users * SHAPES[shape](seconds_gone / seconds)))
