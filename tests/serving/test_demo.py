"""What ``eidetic demo`` makes of drawings, numbers, metrics and mistakes, without a browser."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eideticnet.client.command import Target
from eideticnet.contract.bundle import Input
from eideticnet.errors import EideticError
from eideticnet.serving.demo.asking import Asked
from eideticnet.serving.demo.drawing import drawn, frame, pasted, uploaded
from eideticnet.serving.demo.live import LATENCY, PAGE, SERVER, UNKNOWN, WHERE, _lines, counted
from eideticnet.serving.demo.served import Place, described
from eideticnet.serving.errors import ServingError
from tests.support.demo_page import STROKES
from tests.support.example_counts import examples
from tests.support.forked import eidetic
from tests.support.pictures import picture
from tests.support.ray_replica import TOKEN, replica

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


def test_the_key_goes_where_requests_go_and_to_no_control_port_elsewhere(versions):
    """A replica of Ray Serve describes itself, and asks for the key as for any request."""
    with replica([versions["1.0"]]) as (_, url):
        found = described(Place(Target(url, TOKEN, "net"), url))
        assert (found.version, found.zeros().shape) == ("1.0", (6,))
        for key, control in (("wrong", url), (TOKEN, url.replace("127.0.0.1", "localhost"))):
            with pytest.raises(ServingError, match="401"):
                described(Place(Target(url, key, "net"), control))


METRICS = """
eidetic_answers_total{model="net",version="1",task="a",pinned="false"} 3.0
eidetic_answers_total{model="net",version="2",task="a",pinned="true"} 2.0
eidetic_answers_total{model="net",version="2",task="b",pinned="false"} 1.0
eidetic_answers_total{model="other",version="2",task="b",pinned="false"} 7.0
eidetic_unknown_total{model="net",version="2"} 4.0
# TYPE eidetic_router_confidence histogram
eidetic_router_confidence_bucket{model="net",version="2",le="0.5"} 2.0
eidetic_router_confidence_bucket{model="net",version="2",le="1.0"} 7.0
eidetic_router_confidence_bucket{model="net",version="2",le="+Inf"} 8.0
# TYPE eidetic_handler_seconds histogram
eidetic_handler_seconds_bucket{model="net",version="2",le="+Inf"} 10.0
eidetic_handler_seconds_sum{model="net",version="2"} 0.5
eidetic_handler_seconds_count{model="net",version="2"} 10.0
"""


def test_what_the_server_counts_is_shown_by_task_confidence_and_time():
    found = counted(METRICS, "net")
    assert found.tasks == {"a": 5, "b": 1, UNKNOWN: 4}
    assert found.confidence == {"0.5": 2, "1": 6}  # one was above 1 by its last bit
    assert (found.seconds, found.requests) == (0.5, 10)


def test_both_lines_of_latency_are_there_from_the_first_row_and_neither_breaks_the_other():
    asked = [Asked(None, when, 5.0) for when in (1.0, 3.0)]
    for means in ([], [(2.0, 1.0)]):
        rows = _lines(means, asked)
        assert set(rows[WHERE]) == {SERVER, PAGE}
        for where, count in ((SERVER, len(means)), (PAGE, 2)):
            line = rows[rows[WHERE] == where][LATENCY].isna().tolist()
            assert line == [True] + count * [False]
    assert _lines([], []) is None


def test_it_ends_with_one_line_where_no_server_runs(tmp_path):
    (tmp_path / "home").mkdir()
    ended = eidetic("demo", "--home", tmp_path / "home").end()
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line == f"error: no server runs in {tmp_path}/home; eidetic serve --home {tmp_path}/home"
