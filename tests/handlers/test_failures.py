"""What fails inside fails for the request that it belongs to, in our form, and for nobody else."""

import json

import pytest
from eidetic_pass import passes
from hypothesis import given, settings
from hypothesis import strategies as st
from worker import Worker, make_bundle

from export.archive import read_archive


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle that allows token ids beyond the vocabulary that its graph knows."""
    import torch
    from zoo import ZOO

    make, data = ZOO[next(name for name in ZOO if "embed" in name.lower() or "token" in name.lower())]
    del torch, make, data
    return None
