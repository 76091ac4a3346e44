"""With OpenTelemetry configured each request is a span, child of the sender's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.example_counts import often
from tests.support.handler_worker import make_bundle

ROOT = Path(__file__).parents[2]
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ASK = """
import json, sys
from pathlib import Path
from tests.support.handler_worker import Worker
worker = Worker(Path(sys.argv[1]))
replies = worker.ask([{"data": [0.5] * 6}, b"{"], [{"traceparent": sys.argv[2]}, {}])
print(json.dumps([r.headers.get("traceparent") for r in replies]), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("traced") / "small")


def ask(folder, **environment):
    """The ``traceparent`` of two replies, the first to a request that had one; the spans; the log."""
    paths = os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])
    env = {**os.environ, "PYTHONPATH": paths, "EIDETIC_LOG": str(folder / "log"), **environment}
    (folder / "log").unlink(missing_ok=True)
    command = [sys.executable, "-W", "ignore", "-c", ASK, str(folder), TRACE]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    decoder, spans, rest = json.JSONDecoder(), [], done.stdout.strip()
    while rest:
        span, end = decoder.raw_decode(rest)
        spans.append(span)
        rest = rest[end:].strip()
    return json.loads(done.stderr.splitlines()[-1]), spans, (folder / "log").read_text()


def test_a_request_is_a_span_below_the_senders(folder):
    (first, second), spans, _ = ask(folder, OTEL_TRACES_EXPORTER="console")
    child, alone = spans
    assert child["name"] == alone["name"] == "eidetic.predict"
    assert child["context"]["trace_id"] == f"0x{TRACE[3:35]}"
    assert child["parent_id"] == f"0x{TRACE[36:52]}"
    assert first == f"{TRACE[:36]}{child['context']['span_id'][2:]}-01"
    assert alone["parent_id"] is None
    assert second.split("-")[1] == alone["context"]["trace_id"][2:]
    assert [s["attributes"]["http.response.status_code"] for s in spans] == [200, 400]
    assert child["attributes"] | {"eidetic.model": "small", "eidetic.version": "3.0"} == child["attributes"]
    assert child["start_time"] < child["end_time"]


def test_a_trace_that_is_not_sampled_stays_so(folder):
    (first, _), spans, _ = ask(
        folder, OTEL_TRACES_EXPORTER="console", OTEL_TRACES_SAMPLER="parentbased_always_off"
    )
    assert len(spans) == 1  # the sender's flag counts
    assert first.endswith("-01")


@pytest.mark.parametrize("exporter", often([None, "", "none"], [None]))
def test_without_an_exporter_the_senders_context_is_passed_on(folder, exporter):
    replies, spans, log = ask(folder, **({} if exporter is None else {"OTEL_TRACES_EXPORTER": exporter}))
    assert replies == [TRACE, None]
    assert spans == []
    assert "no traces" not in log


def test_an_exporter_that_is_not_there_is_said_and_stops_nothing(folder):
    replies, _, log = ask(folder, OTEL_TRACES_EXPORTER="carrier-pigeon")
    assert replies == [TRACE, None]
    assert log.count("no traces") == 1
    assert "carrier-pigeon" in log
