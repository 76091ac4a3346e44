"""The norm of a page gives each of its owners what its own norm over the prefix gives."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eideticnet.pages.norms import PageNorm
from eideticnet.rules.norms import PrefixNorm
from tests.support.example_counts import examples

BEFORE, FREE = 5, 2
"""Columns of the page that is read, and free ones behind those of the owners."""


def a_norm(read, own, positions, root):
    norm = PrefixNorm(read, own, None if root else 1e-5, True, not root, positions, root)
    torch.nn.init.normal_(norm.weight)
    return norm


def apart(norm, x, read, dim):
    """What an owner's norm gives of the columns that it reads, in float64."""
    return norm.double()(x.double().index_select(dim, torch.tensor(read)))


@settings(examples(30, 300))
@given(
    widths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    positions=st.sampled_from([None, (), (3,), (2, 2)]),
    root=st.booleans(),
    mean=st.sampled_from([0.0, 1.0, 1e4]),
    seed=st.integers(0, 999),
)
def test_the_norm_of_a_page_is_everyones_own_also_far_from_zero(widths, positions, root, mean, seed):
    torch.manual_seed(seed)
    columns, dim = BEFORE + sum(widths) + FREE, -1 if positions is None else 1
    x = torch.randn(3, columns, *(positions or ())) + mean
    x.narrow(dim, columns - FREE, FREE).zero_()
    norms, start = [], BEFORE
    for width in widths:
        read = [*range(start), *range(start, start + width)]
        own = list(range(start - BEFORE, start - BEFORE + width))
        rooted = root and positions is None
        norms.append((a_norm(len(read), width, positions is not None, rooted), read, own))
        start += width
    ours = PageNorm(norms, columns, columns - BEFORE, len(norms) + 1).float()(x)
    rounding = 1e-5 * (1 + mean / 100)  # of x itself, whose spread is 1
    for norm, read, own in norms:
        expected = apart(norm, x, read, dim)
        found = ours.index_select(dim, torch.tensor(own))
        assert (found.double() - expected).abs().max() <= rounding * max(1, expected.abs().max())
    assert not ours.narrow(dim, columns - BEFORE - FREE, FREE).any(), "free slots stay zero"
