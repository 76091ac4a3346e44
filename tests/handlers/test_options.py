"""An option that is given twice means one thing, or is refused, wherever it stands."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eidetic_runtime.errors import BadRequest
from eidetic_runtime.options import NAMES, from_headers
from tests.support.read_requests import read

BUNDLE = {
    "input": {"shape": [2], "dtype": "float32", "low": 0.0, "high": 16.0},
    "limits": {"max_instances": 3},
    "tasks": [{"name": "cats", "classes": ["a", "b"]}, {"name": "task", "classes": ["c", "d"]}],
}
VALUES = {
    "task": ["cats", "task"],
    "threshold": [0.25, 0.5],
    "top_k": [1, 2],
    "probabilities": [True, False],
    "deadline_ms": [4e12, 5e12],
}


def escaped(name):
    return "".join(f"\\u{ord(letter):04x}" for letter in name)


@given(st.data(), st.sampled_from(NAMES), st.booleans())
def test_an_option_twice_in_json_never_means_two_things(data, name, hide):
    first, second = (data.draw(st.sampled_from(VALUES[name])) for _ in range(2))
    pairs = [(name, first), ("data", [1, 2]), (escaped(name) if hide else name, second)]
    pairs = data.draw(st.permutations(pairs))
    text = ("{" + ",".join(f'"{key}":{json.dumps(value)}' for key, value in pairs) + "}").encode()
    if first == second:
        assert read(text, BUNDLE) is not None
    else:
        with pytest.raises(BadRequest, match="given twice, differently"):
            read(text, BUNDLE)


@given(st.data(), st.sampled_from(NAMES))
def test_an_option_twice_in_headers_never_means_two_things(data, name):
    """TorchServe tells headers apart that differ in case, or in the line between the words."""
    spellings = [f"eidetic-{name}", f"eidetic-{name.replace('_', '-')}", f"EIDETIC-{name.upper()}"]
    one, other = data.draw(st.permutations(spellings))[:2]
    first, second = (data.draw(st.sampled_from(VALUES[name])) for _ in range(2))
    sent = {one: str(first)} | {other: str(second)}
    if len(sent) == 1 or first == second:
        assert list(from_headers(sent)) == [name]
    else:
        with pytest.raises(BadRequest, match="given twice, differently"):
            from_headers(sent)


def test_an_option_twice_in_the_open_inference_protocol_is_refused_too():
    x = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    for twice in ('"task": "cats", "task": "task"', f'"task": "cats", "{escaped("task")}": "task"'):
        with pytest.raises(BadRequest, match="given twice, differently"):
            read(f'{{"inputs": [{json.dumps(x)}], "parameters": {{{twice}}}}}'.encode(), BUNDLE)


@pytest.mark.parametrize("name", ["data", "instances", *NAMES])
def test_an_option_beside_the_tensors_of_the_open_inference_protocol_is_not_passed_over(name):
    x = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    with pytest.raises(
        BadRequest, match=f"{name}: stands beside inputs; expected options among the parameters"
    ):
        read(json.dumps({"inputs": [x], name: "cats"}).encode(), BUNDLE)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_json_in_another_encoding_is_refused(encoding):
    with pytest.raises(BadRequest, match="not JSON"):
        read('{"data": [1, 2], "task": "cats"}'.encode(encoding), BUNDLE)


TWICE = '"task": "cats", "task": "task"'


@pytest.mark.parametrize(
    "text",
    [
        f'{{{TWICE}, "data": [1, 2]}}',
        f'{{"instances": [[1, 2], [3, 4]], {TWICE}}}',
        f'{{"data": [1, 2], {TWICE}, "top_k": "]"}}',
        f'{{"threshold": "[", {TWICE}, "data": [1, 2]}}',
        f'{{"task": "cats", "data": [1, 2], "{escaped("task")}": "task"}}',
    ],
)
def test_neither_brackets_nor_escapes_hide_an_option(text):
    with pytest.raises(BadRequest, match="given twice, differently"):
        read(text.encode(), BUNDLE)


@pytest.mark.parametrize("task", ["a[1]", "]", "[", "][", "ü[", "]ü"])
def test_brackets_in_a_name_are_not_taken_for_those_of_numbers(task):
    bundle = {**BUNDLE, "tasks": [{"name": task, "classes": ["a", "b"]}]}
    for text in ({"data": [1, 2], "task": task}, {"task": task, "data": [1, 2]}):
        assert read(json.dumps(text).encode(), bundle).task == 0


def test_a_name_within_the_data_is_no_option():
    with pytest.raises(BadRequest, match="no number"):
        read(b'{"data": [1, {"task": "a", "task": "a"}], "task": "cats"}', BUNDLE)


@pytest.mark.parametrize("depth", [900, 1000, 1023, 5000])
def test_what_is_nested_deeply_is_refused_beside_an_escaped_option_too(depth):
    deep = "[" * depth + "]" * depth
    with pytest.raises(BadRequest):
        read(f'{{"data": {deep}, "{escaped("task")}": "cats"}}'.encode(), BUNDLE)


def test_text_in_place_of_a_number_is_quoted():
    with pytest.raises(BadRequest, match="top_k: is '2'; expected a whole number from 1"):
        read(b'{"data": [1, 2], "top_k": "2"}', BUNDLE)
