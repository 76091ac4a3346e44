"""What ``eidetic demo`` makes of drawings, numbers, metrics and mistakes, without a browser."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eideticnet.contract.bundle import Input
from eideticnet.errors import EideticError
from eideticnet.serving.demo.drawing import drawn, frame, pasted, uploaded
from eideticnet.serving.errors import ServingError
from tests.support.demo_page import STROKES
from tests.support.example_counts import examples
from tests.support.forked import eidetic
from tests.support.pictures import picture

DIGITS = Input(shape=(64,), dtype="float32", low=0.0, high=16.0)
MNIST = Input(shape=(1, 28, 28), dtype="float32", low=0.0, high=1.0)
FEW = Input(shape=(2, 3), dtype="int64", low=0, high=9)
POINTS = st.tuples(st.floats(0, 1), st.floats(0, 1))


@examples(40, 2000)
@given(st.lists(st.lists(POINTS, min_size=1, max_size=20), min_size=1, max_size=5), st.booleans())
@pytest.mark.parametrize("spec", [DIGITS, MNIST])
def test_whatever_is_drawn_fits_the_contract_and_leaves_a_trace(spec, strokes, dark):
    x = drawn(json.dumps(strokes), frame(spec), dark)
    assert (x.shape, x.dtype) == (spec.shape, np.float32)
    assert spec.low <= x.min() <= x.max() <= spec.high
    assert x.max() - x.min() > spec.high / 4


@pytest.mark.parametrize("digit", STROKES)
def test_a_drawing_is_the_same_input_wherever_and_however_large_it_is_drawn(digit):
    def made(size, right, down):
        strokes = [[(right + size * x, down + size * y) for x, y in stroke] for stroke in STROKES[digit]]
        return drawn(json.dumps(strokes), frame(DIGITS))

    whole = made(1, 0, 0)
    for size, right, down in ((0.5, 0, 0), (0.3, 0.6, 0.6), (0.7, 0.1, 0.2)):
        assert np.abs(made(size, right, down) - whole).max() < 1.6  # of 16: where a pixel's edge falls
    rows = whole.reshape(8, 8)
    assert rows[0].max() > 4, "it is as high as the frame"
    assert rows[-1].max() > 4
    assert rows[:, 0].max() < 4, "and narrower"


def test_drawings_that_are_none_are_refused():
    for strokes, said in [("[]", "nothing is drawn"), ("[[[9, 9]]]", "outside"), ("x", "can't be read")]:
        with pytest.raises(ServingError, match=said):
            drawn(strokes, frame(DIGITS))


def test_pictures_are_what_contracts_call_so_and_what_numbers_of_a_known_range_may_be():
    bounds = {"dtype": "float32", "low": 0.0, "high": 1.0}
    for shape, size in [((784,), (28, 28)), ((8, 9), (8, 9)), ((3, 32, 16), (32, 16))]:
        found = frame(Input(shape=shape, **bounds))
        assert (found.height, found.width) == size
    for spec in [FEW, *(Input(shape=s, **bounds) for s in ((63,), (4,), (2, 8, 8), (8, 8, 8, 8)))]:
        assert frame(spec) is None
    assert frame(Input(shape=(64,), dtype="float32")) is None


def test_numbers_are_read_as_people_write_them():
    for text in (
        "1 2 3\n4 5 6",
        "1,2,3;4,5,6",
        "[[1, 2, 3], [4, 5, 6]]",
        '{"data": [1, 2, 3, 4, 5, 6]}',
        "1 2 3 4 5 6.0",
    ):
        x = pasted(text, FEW)
        assert (x.tolist(), x.dtype) == ([[1, 2, 3], [4, 5, 6]], np.int64)
    for text in (
        "",
        "1 2 3",
        "1 2 3 4 5 x",
        "1 2 3 4 5 6.5",
        "[[1], [2, 3]]",
        "{}",
        "null",
        '"1"',
        "1 2 3 4 5 nan",
    ):
        with pytest.raises(EideticError) as error:
            pasted(text, FEW)
        assert "expected 6 whole numbers (shape 2 x 3) from 0 to 9" in str(error.value), text


@examples(60, 3000)
@given(st.text() | st.text("0123456789.,-+e[]{}: \n"))
def test_any_text_is_an_instance_or_refused_in_words(text):
    try:
        assert pasted(text, FEW).shape == (2, 3)
    except EideticError as error:
        assert str(error)


@examples(60, 3000)
@given(st.binary() | st.binary().map(lambda more: picture("red", 0)[:60] + more))
def test_any_file_is_an_instance_or_refused_in_words(content):
    try:
        assert uploaded(content, DIGITS).shape == (64,)
    except EideticError as error:
        assert str(error)


def test_it_ends_with_one_line_where_no_server_runs(tmp_path):
    (tmp_path / "home").mkdir()
    ended = eidetic("demo", "--home", tmp_path / "home").end()
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line == f"error: no server runs in {tmp_path}/home; eidetic serve --home {tmp_path}/home"
