"""How many examples a property gets that takes long for each."""

import os

from hypothesis import settings

ALL = "all"


def examples(few: int, many: int) -> settings:
    """``few``, or ``many`` where HYPOTHESIS_PROFILE is "all", as in ``make test-all``; no deadline."""
    return settings(max_examples=many if os.environ.get("HYPOTHESIS_PROFILE") == ALL else few, deadline=None)
