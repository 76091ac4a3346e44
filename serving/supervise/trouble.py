"""What went wrong while a server was looked after: told once for as long as it lasts, and never its end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from eideticnet.export.errors import ArchiveError
from eideticnet.serving.errors import ServingError

log = logging.getLogger("serving")

FORESEEN = (ServingError, ArchiveError, OSError)
"""Errors that a server has to expect; every other one is logged with its traceback."""


class Trouble:
    """``text`` says what is wrong, "" while nothing is. ``quiet``: expected errors are logged elsewhere."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.text, self._quiet = "", quiet

    @contextmanager
    def noted(self) -> Iterator[None]:
        """An error inside is logged and goes no further; success ends the trouble."""
        try:
            yield
        except FORESEEN as error:
            self.tell(str(error))
        except Exception as error:
            self.tell(repr(error), trace=True)
        else:
            self.text = ""

    def tell(self, text: str, *, trace: bool = False) -> None:
        if text != self.text and (trace or not self._quiet):
            log.warning("%s", text, exc_info=trace)
        self.text = text
