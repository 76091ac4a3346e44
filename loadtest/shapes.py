"""How many users there are at which moment of a load test. Knows no locust, whose import changes the
standard library's sockets and locks."""

from __future__ import annotations

import math
from collections.abc import Callable

Shape = Callable[[float], float]


SHAPES: dict[str, Shape] = {
    "steady": lambda moment: 1.0,
    "ramp": lambda moment: moment,
    "spike": lambda moment: 1.0 if 0.4 <= moment < 0.6 else 0.25,
    "soak": lambda moment: 0.5,  # what a server should bear for hours, which is a matter of ``seconds``
}
"""The share of the users, by the share of the time that has passed (0 to 1)."""


def users_at(shape: str, seconds_gone: float, users: int, seconds: float) -> int | None:
    """The number of users, at least one; None when the test is over."""
    if seconds_gone >= seconds:
        return None
    return max(1, math.ceil(users * SHAPES[shape](seconds_gone / seconds)))
