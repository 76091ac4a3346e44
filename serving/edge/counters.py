"""What the edge counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from eideticnet.serving.edge.parts import FRONTS, PATIENT
from eideticnet.serving.edge.process import Edge
from eideticnet.serving.errors import Unavailable

_OF_FRONTS = {
    "requests": ("counter", "Requests that came", "req_tot"),
    "unreadable": ("counter", "Requests that broke off, came too late or were no HTTP", "ereq"),
    "turned_away": ("counter", "Connections of clients that had too many", "dcon"),
    "connections": ("gauge", "Connections there are", "scur"),
}
_OF_BACKS = {
    "retries": ("counter", "Times that a request was sent again, or waited for the engine", "wretr"),
    "waiting": ("gauge", "Requests that wait until the engine has fewer", "qcur"),
}
"""By name: kind, text, and HAProxy's column."""
_CODES = ("1xx", "2xx", "3xx", "4xx", "5xx")


class EdgeCounters(Collector):
    """Of one edge. HAProxy counts from zero when it is started again."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def collect(self) -> Iterator[Metric]:
        restarts = CounterMetricFamily("eidetic_edge_restarts", "How often HAProxy was started again")
        restarts.add_metric([], self._edge.restarts)
        yield restarts
        rows: list[dict[str, str]] = []
        with suppress(Unavailable):
            rows = self._edge.runtime.counters()
        fronts = [row for row in rows if row["svname"] == "FRONTEND" and row["pxname"] in FRONTS]
        backs = [row for row in rows if row["svname"] == "BACKEND" and row["pxname"] in PATIENT]
        yield from _families(_OF_FRONTS, "port", fronts)
        yield from _families(_OF_BACKS, "kind", backs)
        answers = CounterMetricFamily(
            "eidetic_edge_answers", "Answers, of the engine's and its own", labels=["port", "code"]
        )
        for row in fronts:
            for code in _CODES:
                answers.add_metric([row["pxname"], code], float(row[f"hrsp_{code}"] or 0))
        yield answers


def _families(
    told: dict[str, tuple[str, str, str]], label: str, rows: list[dict[str, str]]
) -> Iterator[Metric]:
    for name, (kind, text, column) in told.items():
        made = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
        family = made(f"eidetic_edge_{name}", text, labels=[label])
        for row in rows:
            family.add_metric([row["pxname"]], float(row[column] or 0))
        yield family
