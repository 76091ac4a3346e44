"""What the server counts and how fast it is, as tables for plots."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from operator import itemgetter

import pandas as pd
from prometheus_client.parser import text_string_to_metric_families

from eideticnet.serving.demo.asking import Asked
from eideticnet.serving.demo.served import Place, told_by
from eideticnet.serving.errors import ServingError

_KEPT = 120
_MILLISECONDS = 1000
UNKNOWN, REQUESTS, CONFIDENCE, ANSWERS = "unknown", "answers", "probability of the task, at most", "answers"
WHEN, LATENCY, WHERE = "time", "milliseconds", "measured by"
SERVER, PAGE = "server", "page"
COLOURS = {SERVER: "#d35f00", PAGE: "#3b82f6"}


@dataclass
class Counted:
    """What a server's metrics say of one model, all versions together: answers by task, answers by the upper
    bound of the task's probability, seconds of all requests and their number."""

    tasks: Counter[str] = field(default_factory=Counter)
    confidence: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    requests: float = 0.0


def counted(text: str, model: str) -> Counted:
    """Of the text of ``/metrics``."""
    found, below = Counted(), defaultdict[float, float](float)
    for family in text_string_to_metric_families(text):
        for name, labels, value, *_ in family.samples:
            if labels.get("model") != model:
                continue
            match name:
                case "eidetic_answers_total":
                    found.tasks[labels["task"]] += int(value)
                case "eidetic_unknown_total":
                    found.tasks[UNKNOWN] += int(value)
                case "eidetic_router_confidence_bucket":
                    below[float(labels["le"])] += value
                case "eidetic_handler_seconds_sum":
                    found.seconds += value
                case "eidetic_handler_seconds_count":
                    found.requests += value
    for (low, before), (high, upto) in pairwise([(0.0, 0.0), *sorted(below.items())]):
        if low < 1:
            more = 0.0 if high < 1 else below[float("inf")] - upto  # a float32 above 1 by its last bit
            found.confidence[f"{high:g}"] += int(upto - before + more)
    return found


@dataclass(frozen=True)
class Plots:
    """The tables of the three plots, and in a sentence where they come from."""

    tasks: pd.DataFrame
    confidence: pd.DataFrame
    latency: pd.DataFrame | None
    source: str


class Live:
    """Looks at a server again and again. Where it can't be looked at, what the page has seen is shown."""

    def __init__(self, place: Place) -> None:
        self._place, self._before = place, Counted()
        self._means: deque[tuple[float, float]] = deque(maxlen=_KEPT)

    def look(self, tasks: Iterable[str], asked: Iterable[Asked]) -> Plots:
        """``tasks`` are those that there are, ``asked`` the newest answers of this page."""
        asked = list(asked)
        source = (
            f"From the server's metrics ({self._place.control}/metrics): all clients and versions since "
            "it was started. Milliseconds of the server are means of its handler, of the page round trips."
        )
        try:
            found = counted(told_by(self._place, "/metrics"), self._place.model)
            self._note(found)
        except (ServingError, ValueError) as error:
            found = _seen(asked)
            source = f"From what this page has asked alone, because the metrics can't be read: {error}"
        return Plots(_bars(tasks, found.tasks), _shares(found.confidence), _lines(self._means, asked), source)

    def _note(self, found: Counted) -> None:
        before, self._before = self._before, found
        requests = found.requests - before.requests
        if before.requests and requests > 0:
            mean = _MILLISECONDS * (found.seconds - before.seconds) / requests
            self._means.append((time.time(), mean))


def _seen(asked: Iterable[Asked]) -> Counted:
    found = Counted(confidence=Counter({f"{tenth / 10:g}": 0 for tenth in range(1, 11)}))
    for each in asked:
        found.tasks[each.answer.task or UNKNOWN] += 1
        if each.answer.task_probability is not None:
            tenth = min(int(each.answer.task_probability * 10), 9) + 1
            found.confidence[f"{tenth / 10:g}"] += 1
    return found


def _bars(tasks: Iterable[str], counts: Mapping[str, int]) -> pd.DataFrame:
    names = [*tasks, UNKNOWN]
    return pd.DataFrame({"task": names, REQUESTS: [counts.get(name, 0) for name in names]})


def _shares(counts: Mapping[str, int]) -> pd.DataFrame:
    return pd.DataFrame({CONFIDENCE: list(counts), ANSWERS: list(counts.values())}).astype({CONFIDENCE: str})


def _lines(means: Iterable[tuple[float, float]], asked: Iterable[Asked]) -> pd.DataFrame | None:
    """None where there is nothing yet. Both lines are there from the first row on: a plot that began without
    one would never show it."""
    rows = [(when, mean, SERVER) for when, mean in means]
    rows += [(each.when, each.milliseconds, PAGE) for each in asked]
    if not rows:
        return None
    first = min(rows)[0]
    rows = [*((first, math.nan, where) for where in COLOURS), *sorted(rows, key=itemgetter(0))]
    times = pd.to_datetime([datetime.fromtimestamp(when) for when, *_ in rows])
    return pd.DataFrame(
        {WHEN: times, LATENCY: [ms for _, ms, _ in rows], WHERE: [where for *_, where in rows]}
    )
