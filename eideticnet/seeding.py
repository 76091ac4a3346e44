"""Randomness as a function of names: the same seed and names give the same numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(*names: object) -> int:
    """A 63-bit seed from names, the first usually being the network's seed."""
    digest = hashlib.sha256(repr(names).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def seeded(*names: object) -> Iterator[None]:
    """Run with all of torch's generators seeded from ``names``; the caller's are put back."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        # Not torch.manual_seed, which formats a stack trace for a GPU that may never be used.
        torch.default_generator.manual_seed(derive(*names))
        if devices:
            torch.cuda.manual_seed_all(derive(*names))
        yield
