"""The request's id, and the trace that it belongs to where OpenTelemetry is installed."""

from __future__ import annotations

try:
    from opentelemetry import propagate
except ImportError:  # traces are off then
    propagate = None  # type: ignore[assignment]


def trace_headers(request_id: str = "") -> dict[str, str]:
    """``x-request-id`` if one is given, and ``traceparent`` inside a span."""
    headers = {"x-request-id": request_id} if request_id else {}
    if propagate is not None:
        propagate.inject(headers)
    return headers
