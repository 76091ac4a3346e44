"""Options of a request: what they are called, how they travel as text, and until when."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from eideticnet.contract.options import RequestOptions
from eideticnet.serving.errors import DeadlineError, ServingError

Value = str | int | float | bool


class Options(TypedDict, total=False):
    """What ``predict`` takes beside its input; what is None is not sent.

    ``task`` pins a task by name. ``threshold`` (0 to 1): "unknown" below that confidence.
    ``top_k``: how many labels in ``Answer.top``, all of the task answered. ``probabilities``: those of all
    tasks, and of the classes of the task answered.
    ``deadline``: seconds from now after which the answer is no longer needed; retries stay within it, and
    it is sent as a point in time, so the clocks of both machines have to agree.
    ``version`` asks a certain version of the model. ``request_id`` goes into the server's logs.
    ``content_type`` says what bytes or a file are, where that can't be seen.
    """

    task: str | None
    threshold: float | None
    top_k: int | None
    probabilities: bool | None
    deadline: float | None
    version: str
    request_id: str
    content_type: str


_LONGEST_TEXT = 128
LONGEST = 1e6
"""Seconds that a prediction may take at most: who waits for a request that the server lost waits for ever."""


@dataclass(frozen=True)
class Timed:
    """``values``: the options that the server reads, by name. ``seconds``: how long the caller waits,
    until the moment ``ends`` of the monotonic clock."""

    values: dict[str, Value]
    seconds: float
    ends: float

    def left(self) -> float:
        """Seconds until time is up."""
        return self.ends - time.monotonic()

    def limit(self) -> float:
        """Seconds that one try may take; ``DeadlineError`` if there are none left."""
        left = self.left()
        if left <= 0:
            raise self.late()
        return left

    def late(self) -> DeadlineError:
        return DeadlineError(seconds=self.seconds)


def timed(given: Options, timeout: float) -> Timed:
    """The options of a request that begins now. ``timeout`` (seconds) is not told to the server, and
    holds where there is no deadline."""
    if unknown := sorted(given.keys() - Options.__annotations__.keys()):
        known = ", ".join(Options.__annotations__)
        raise TypeError(f"predict has no option {unknown[0]!r}; there are {known}")
    deadline = given.get("deadline")
    if deadline is not None:
        deadline = seconds("deadline", deadline)
    values: dict[str, Any] = {name: given.get(name) for name in RequestOptions.model_fields}
    values["deadline_ms"] = None if deadline is None else int((time.time() + deadline) * 1000)
    patience = timeout if deadline is None else deadline
    told = {name: _plain(value) for name, value in values.items() if value is not None}
    for name, value in told.items():
        if isinstance(value, str) and not _encodes(value):
            raise ServingError(f"{name} is {value!r}; expected text that UTF-8 can hold")
    return Timed(told, patience, time.monotonic() + patience)


_TEXTS = {
    "version": (re.compile(r".*", re.DOTALL), "text"),
    "request_id": (re.compile(r"[A-Za-z0-9._:/+=@-]*"), "letters, digits and ._:/+=@-, 128 at most"),
    "content_type": (re.compile(r"[ -~]*"), "printable ASCII"),
}


def text(given: Options, name: Literal["version", "request_id", "content_type"]) -> str:
    """What ``given`` says of the request as a whole; "" where it says nothing."""
    value: Any = given.get(name)
    pattern, expected = _TEXTS[name]
    if value is None:
        return ""
    if not isinstance(value, str) or not pattern.fullmatch(value) or len(value) > _LONGEST_TEXT:
        raise ServingError(f"{name} is {value!r:.200}; expected {expected}")
    return value


def _encodes(value: str) -> bool:
    try:
        return value.encode() is not None
    except UnicodeEncodeError:
        return False


def seconds(name: str, value: Any) -> float:
    """``value`` if it is a number of seconds that can be waited, negative ones included."""
    value = _plain(value)
    if type(value) not in (int, float) or not abs(value) <= LONGEST:
        raise ServingError(f"{name} is {value!r}; expected seconds, {LONGEST:.0f} at most")
    return float(value)


def patience(timeout: Any) -> float:
    """A client's ``timeout``, which ends every prediction that names no deadline."""
    if (found := seconds("timeout", timeout)) <= 0:
        raise ServingError(f"timeout is {timeout!r}; expected more than 0 seconds")
    return found


def _plain(value: Any) -> Any:
    """Python's own number for that of another library."""
    return value.item() if callable(getattr(value, "item", None)) else value


def as_text(value: Value) -> str:
    """As JSON would write it, a string without its quotes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)
