"""States become tensors and JSON, and come back as they were."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eideticnet.hashing import tensor_hash
from eideticnet.learn.states import NotStorableError, pack, unpack

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
TENSORS = st.lists(st.floats(width=32), max_size=4).map(torch.tensor)
STATES = st.recursive(
    SCALARS | TENSORS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers(0, 9) | st.text(max_size=3), inner, max_size=3)
    ),
)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and tensor_hash(a) == tensor_hash(b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@settings(max_examples=40)
@given(state=STATES)
def test_a_state_comes_back_as_it_was(state):
    tensors = {}
    packed = json.loads(json.dumps(pack(state, "optimizer", tensors)))
    assert same(unpack(packed, tensors), state)


def test_what_can_not_be_stored_is_named():
    with pytest.raises(NotStorableError, match="optimizer/state/0 holds a set"):
        pack({"state": {0: {1, 2}}}, "optimizer", {})
