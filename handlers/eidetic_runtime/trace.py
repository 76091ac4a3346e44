"""OpenTelemetry: a span for each request, child of the one that its ``traceparent`` names.

Off unless opentelemetry's SDK is installed and OTEL_TRACES_EXPORTER names an exporter that is. Resource,
sampler and exporter read the SDK's own environment variables.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from importlib.metadata import entry_points

log = logging.getLogger("eidetic.trace")

EXPORTERS = "OTEL_TRACES_EXPORTER"


class Tracer:
    """Spans of requests to one model; ``exporters`` are names, separated by commas."""

    def __init__(self, exporters: str, attributes: Mapping[str, str]) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        provider = TracerProvider()
        for name in exporters.split(","):
            found = entry_points(group="opentelemetry_traces_exporter", name=name.strip())
            if not found:
                raise ValueError(f"no exporter {name.strip()!r} is installed")
            provider.add_span_processor(BatchSpanProcessor(next(iter(found)).load()()))
        self._attributes, self._kind = dict(attributes), trace.SpanKind.SERVER
        self._failed = trace.StatusCode.ERROR
        self._tracer, self._context = provider.get_tracer("eidetic"), TraceContextTextMapPropagator()

    def span(self, traceparent: str, status: int, started: int, ended: int) -> str:
        """Write the span of a request that was answered with ``status``, between two Unix times in
        nanoseconds; the ``traceparent`` that names it."""
        parent = self._context.extract({"traceparent": traceparent})
        span = self._tracer.start_span(
            "eidetic.predict", parent, self._kind, self._attributes, start_time=started
        )
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_status(self._failed)
        span.end(ended)
        own = span.get_span_context()
        return f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"


def open_tracer(model: str, version: str) -> Tracer | None:
    """None if traces are off or can't be made."""
    exporters = os.environ.get(EXPORTERS, "none")
    if exporters in ("", "none"):
        return None
    try:
        return Tracer(exporters, {"eidetic.model": model, "eidetic.version": version})
    except Exception as error:  # the SDK is missing, or an exporter failed
        log.warning("no traces: %r", error)
        return None
