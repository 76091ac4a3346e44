"""Logs tell who was refused, failed or slow, and why; never what was sent; and they never fail a request."""

import json
import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eidetic_runtime.log import LOG, JsonLines
from eidetic_runtime.telemetry import SLOW
from tests.support.example_counts import examples
from tests.support.handler_worker import Worker, make_bundle

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
GOOD = {"data": [0.5] * 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("logged") / "small")


@pytest.fixture(scope="module")
def shared(folder, tmp_path_factory):
    """A worker and the file that it logs to."""
    path = tmp_path_factory.mktemp("logs") / "requests.jsonl"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(LOG, str(path))
        return Worker(folder), path


@pytest.fixture
def logged(shared):
    worker, path = shared
    path.write_text("")
    return worker, lambda: [json.loads(line) for line in path.read_text().splitlines()]


def test_a_good_request_is_not_logged(logged):
    worker, lines = logged
    assert worker.ask([GOOD])[0].status == 200
    assert lines() == []


def test_a_refused_request_is_logged_with_its_ids_and_without_what_it_holds(logged):
    worker, lines = logged
    headers = [{"X-Request-ID": "mine-1", "Traceparent": TRACE}, {}]
    worker.ask([{"data": [1, 2]}, GOOD], headers)
    (line,) = lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "info",
        "message": "refused",
        "model": "small",
        "version": "3.0",
        "request_id": "server-0",
        "sender_id": "mine-1",
        "trace_id": TRACE[3:35],
        "batch": 2,
        "status": 400,
        "kind": "bad_request",
        "field": "data",
    }


def test_ids_come_back_in_the_headers(logged):
    worker, _ = logged
    sent = [{"X-Request-Id": "mine-1", "traceparent": TRACE}, {}]
    first, second = worker.ask([GOOD, GOOD], sent)
    assert first.headers["eidetic-request-id"] == "mine-1"
    assert first.headers["traceparent"] == TRACE
    assert set(second.headers) == {"content-type"}


@pytest.mark.parametrize("name", ["x-request-id", "traceparent"])
@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "\u00e9", "", "x" * 200, "00-" + "0" * 32 + "-1-01"])
def test_what_could_break_a_header_is_not_sent_back(logged, name, value):
    worker, lines = logged
    if name == "x-request-id" and value.startswith("00-"):
        pytest.skip("a fine request id")
    (reply,) = worker.ask([{"data": []}], [{name: value}])
    assert set(reply.headers) == {"content-type"}
    assert not {"sender_id", "trace_id"} & lines()[0].keys()


secret = st.text("abcdef", min_size=12, max_size=12).map(lambda text: f"secret{text}")


@examples(20, 60)
@given(secret, st.integers(0, 6), st.sampled_from(["Authorization", "Cookie", "X-Api-Key"]))
def test_no_log_holds_what_was_sent_or_a_key(shared, secret, kind, header):
    worker, path = shared
    bodies = [
        {secret: 1},
        {"data": secret},
        {**GOOD, "task": secret},
        {**GOOD, "threshold": secret},
        {"data": [secret] * 6},
        secret.encode(),
        {"instances": [[secret]]},
    ]
    (reply,) = worker.ask([bodies[kind]], [{header: f"Bearer {secret}"}])
    assert reply.status == 400
    assert secret not in path.read_text()
    assert path.read_text()


def test_a_slow_batch_is_logged_with_the_seconds_of_its_stages(folder, tmp_path, monkeypatch):
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    monkeypatch.setenv(SLOW, "0")
    Worker(folder).ask([GOOD, GOOD])
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(line["message"], line["request_id"]) for line in lines if line["message"] == "slow"] == [
        ("slow", "server-0"),
        ("slow", "server-1"),
    ]
    assert 0 < lines[-1]["decode"] + lines[-1]["graph"] <= lines[-1]["handler"]


@pytest.mark.parametrize("path", ["/dev/full", "/nowhere/log", "/"])
def test_a_log_that_can_not_be_written_never_fails_a_request(folder, monkeypatch, capfd, path):
    monkeypatch.setenv(LOG, path)
    worker = Worker(folder)
    replies = worker.ask([GOOD, b"{", GOOD] * 100)
    assert [r.status for r in replies] == [200, 400, 200] * 100
    if path != "/dev/full":  # said once, and then it goes to stderr
        assert capfd.readouterr().err.count("logs go to stderr") == 1


def test_half_a_line_never_spoils_the_next(tmp_path):
    """A disk that fills up takes part of a line; what comes when there is room again stands by itself."""
    import logging
    import resource

    from eidetic_runtime.log import JsonLines

    log = JsonLines(str(tmp_path / "log"), {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (100, before[0]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            for i in range(3):
                log.emit(logging.LogRecord("eidetic", logging.INFO, "", 0, f"line {size} {i}", (), None))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    whole = []
    for line in (tmp_path / "log").read_text().splitlines():
        try:
            whole.append(json.loads(line)["message"])
        except ValueError:
            continue
    assert whole == ["line 100 0", *(f"line {before[0]} {i}" for i in range(3))]


def test_a_log_that_was_moved_away_is_begun_anew_and_one_in_a_folder_that_is_gone_loses_nothing(tmp_path):
    path = tmp_path / "logs/requests.jsonl"
    path.parent.mkdir()
    log = JsonLines(str(path), {})
    record = logging.LogRecord("eidetic", logging.INFO, "", 0, "refused", (), None)
    log.emit(record)
    old = path.rename(path.with_suffix(".1"))
    log.emit(record)
    away = path.parent.rename(tmp_path / "away")
    log.emit(record)
    away.rename(path.parent)
    assert [len(file.read_text().splitlines()) for file in (old, path)] == [1, 2]
