"""JSON requests are read, or refused with the field's name and what was expected."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eidetic_runtime.answers import encode
from eidetic_runtime.errors import BadRequest
from tests.support.read_requests import read

BUNDLE = {
    "input": {"shape": [2, 2], "dtype": "float32", "low": 0.0, "high": 16.0},
    "limits": {"max_instances": 3},
    "tasks": [{"name": "cats", "classes": ["a", "b"]}, {"name": "ünïcode", "classes": ["c", "d", "e"]}],
}
GOOD = [[1, 2], [3, 4.5]]
NOW_NS = 1_795_000_000 * 10**9  # a fixed time: names of tests must be the same in every process


def body(**fields):
    return json.dumps(fields).encode()


def test_one_instance_becomes_an_array_of_one_row():
    request = read(body(data=GOOD), BUNDLE)
    assert request.x.tolist() == [GOOD]
    assert request.x.dtype == np.float32
    assert (request.task, request.threshold, request.many) == (-1, 0.0, False)


def test_a_calibrated_threshold_counts_where_the_request_names_none():
    bundle = {**BUNDLE, "routing": {"rule": "hard", "threshold": 0.25}}
    assert read(body(data=GOOD), bundle).threshold == 0.25
    assert read(body(data=GOOD, threshold=0), bundle).threshold == 0.0


def test_many_instances_become_one_array():
    request = read(body(instances=[GOOD, GOOD], task="ünïcode", threshold=0.5), BUNDLE)
    assert request.x.shape == (2, 2, 2)
    assert (request.task, request.threshold, request.many) == (1, 0.5, True)


@pytest.mark.parametrize("decoded", [{"data": GOOD}, json.dumps({"data": GOOD}), bytearray(body(data=GOOD))])
def test_a_body_that_the_server_decoded_already_is_read_too(decoded):
    assert read(decoded, BUNDLE).x.tolist() == [GOOD]


@pytest.mark.parametrize("before", [b"\xef\xbb\xbf", b" \r\n\t"])
def test_a_mark_of_utf_8_before_the_object_is_passed_over(before):
    assert read(before + body(data=GOOD, task="ünïcode"), BUNDLE).task == 1


@pytest.mark.parametrize(
    ("sent", "field", "words"),
    [
        (b"", "body", "empty"),
        (b"not json", "body", "not JSON"),
        (b"\xff\xfe\x00", "body", "not JSON"),
        (b"[" * 100_000, "body", "not JSON"),
        (b"[1, 2]", "body", "expected a JSON object"),
        (b"null", "body", "expected a JSON object"),
        (body(), "data", "either"),
        (body(data=GOOD, instances=[GOOD]), "data", "either"),
        (body(dta=GOOD), "dta", "unexpected field"),
        (body(data=[1, 2, 3, 4]), "data", "has shape [4]; expected [2, 2]"),
        (body(data=[[1, 2], [3]]), "data", "ragged"),
        (body(data=[[1, 2], [3, None]]), "data[1][1]", "no number"),
        (body(data=[[1, 2], [3, True]]), "data[1][1]", "is True, no number"),
        (body(data=[[True, False], [True, False]]), "data[0][0]", "no number"),
        (body(data=[[1, 2], [3, {}]]), "data[1][1]", "no number"),
        (body(data=[[1, 2], [3, [4]]]), "data[1][1]", "no number"),
        (body(data=7), "data", "has shape []; expected [2, 2]"),
        (body(data=[[[1], [2]], [[3], [4]]]), "data[0][0]", "no number"),
        (body(instances=[GOOD, [[1, 2], [3, "4"]]]), "instances[1][1][1]", "no number"),
        (body(data=[["1", "2"], ["3", "4"]]), "data[0][0]", "no number"),
        (body(data="1234"), "data", "no number"),
        (body(data={"a": 1}), "data", "no number"),
        (body(data=[]), "data", "has shape [0]"),
        (body(data=[[1, 2], [3, float("nan")]]), "data[1][1]", "finite number from 0.0 to 16.0"),
        (body(data=[[1, 2], [3, float("inf")]]), "data[1][1]", "finite"),
        (b'{"data": [[1, 2], [3, 1e999]]}', "data[1][1]", "finite"),
        (b'{"data": [[1, 2], [3, 1e39]]}', "data[1][1]", "finite"),
        (b'{"data": [[1, 2], [3, 1' + b"0" * 400 + b"]]}", "data[1][1]", "too large"),
        (body(data=[[1, 2], [3, 16.5]]), "data[1][1]", "16.5"),
        (body(data=[[1, 2], [3, -0.1]]), "data[1][1]", "from 0.0 to 16.0"),
        (body(instances=[]), "instances", "at least one"),
        (body(instances=7), "instances", "list"),
        (body(instances=[GOOD] * 4), "instances", "at most 3"),
        (body(instances=[GOOD, [[1, 2]]]), "instances[1]", "has shape [1, 2]; expected [2, 2]"),
        (body(instances=[GOOD, [[1, 2], [3, 99]]]), "instances[1][1][1]", "99"),
        (b"1" * 5000, "body", "not JSON that can be read: it holds a number of thousands of digits"),
        (body(data=GOOD).decode().encode("utf-16"), "body", "not JSON: byte 0 is not UTF-8"),
        (gzip.compress(body(data=GOOD), mtime=0), "body", "not JSON: byte 1 is not UTF-8"),
        (b'{"data": [[1, 2], [3, 4]], "data": [[1, 2], [3, 5]]}', "data", "twice, differently"),
        (b'{"instances": [[[1, 2], [3, 4]]], "\\u0069nstances": []}', "instances", "twice, differently"),
        (b'{"data": [[1, 2], [3, 4]], "instances": 1, "instances": 1}', "data", "either"),
        (body(data=GOOD, deadline_ms=10**400), "deadline_ms", "expected milliseconds of Unix time"),
        (body(data=GOOD, deadline_ms=1e300), "deadline_ms", "expected milliseconds of Unix time"),
        (body(data=GOOD, deadline_ms=NOW_NS), "deadline_ms", "expected milliseconds of Unix time"),
        (body(data=GOOD, deadline_ms=NOW_NS // 1000), "deadline_ms", "expected milliseconds"),
        (body(data=GOOD, deadline_ms=float("nan")), "deadline_ms", "is nan; expected milliseconds"),
        (body(data=GOOD, deadline_ms=True), "deadline_ms", "is True; expected milliseconds"),
        (body(data=GOOD, threshold=10**400), "threshold", "from 0 to 1"),
        (body(data=GOOD, threshold="0.5"), "threshold", "from 0 to 1"),
        (body(data=GOOD, top_k=1e9), "top_k", "whole number from 1"),
        (body(data=GOOD, top_k=-1), "top_k", "whole number from 1"),
        (body(data=GOOD, task="dogs"), "task", "'cats', 'ünïcode'"),
        (body(data=GOOD, task=0), "task", "expected one of"),
        (body(data=GOOD, task=["cats"]), "task", "expected one of"),
        (body(data=GOOD, threshold=2), "threshold", "from 0 to 1"),
        (body(data=GOOD, threshold="high"), "threshold", "from 0 to 1"),
        (body(data=GOOD, threshold=float("nan")), "threshold", "from 0 to 1"),
        (body(data=GOOD, threshold=True), "threshold", "from 0 to 1"),
        (body(data=GOOD, **{"x" * 500: 1}), "x" * 100, "unexpected field"),
        (b'{"data": [[1, 2], [3, 4]], "\\ud800": 1}', "?", "unexpected field"),
        (b'{"data": [[1, 2], [3, 4]], "threshold": "\\ud800"}', "threshold", "from 0 to 1"),
    ],
)
def test_a_bad_request_names_the_field_and_what_was_expected(sent, field, words):
    with pytest.raises(BadRequest) as error:
        read(sent, BUNDLE)
    assert error.value.field == field
    assert words in error.value.message
    assert error.value.status == (413 if "at most" in words else 400)
    assert json.loads(encode(error.value.to_json()))["error"]["field"] == field


def test_the_standard_parser_reads_the_same_requests(monkeypatch):
    from eidetic_runtime import requests

    monkeypatch.setattr(requests, "orjson", None)
    assert read(body(data=GOOD), BUNDLE).x.tolist() == [GOOD]
    for sent in (b"nonsense", b"[" * 100_000):
        with pytest.raises(BadRequest):
            read(sent, BUNDLE)


def test_token_ids_have_to_be_whole_numbers_within_the_vocabulary():
    bundle = {**BUNDLE, "input": {"shape": [3], "dtype": "int64", "low": 0, "high": 99}}
    assert read(body(data=[0, 5, 99]), bundle).x.dtype == np.int64
    for wrong in ([0, 5, 100], [0, 5, -1], [0, 5, 1.5], [0, 5, 2**63], [0, 5, 2**64]):
        with pytest.raises(BadRequest):
            read(body(data=wrong), bundle)
    with pytest.raises(BadRequest, match=r"data\[2\]: is 1.5.*a whole number"):
        read(body(data=[0, 5, 1.5]), bundle)
    unbounded = {**BUNDLE, "input": {"shape": [2], "dtype": "int64", "low": None, "high": None}}
    with pytest.raises(BadRequest):
        read(body(data=[1, 2**63]), unbounded)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_bad_request(sent):
    with pytest.raises(BadRequest):
        read(sent, BUNDLE)


letters = st.text("ab\ud800\x00", max_size=2)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | letters,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(letters, inner, max_size=2),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "data": json_values,
            "instances": json_values,
            "task": json_values,
            "threshold": json_values,
        },
    )
)
def test_no_json_raises_anything_but_a_bad_request(fields):
    try:
        request = read(json.dumps(fields).encode(), BUNDLE)
    except BadRequest as error:
        assert 400 <= error.status < 500
        assert json.loads(encode(error.to_json()))
    else:
        assert request.x.shape[1:] == (2, 2)
        assert np.isfinite(request.x).all()
