"""The token that a request carries, which never shows in a log or a traceback."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Literal

from eideticnet.files import UnreadableError, read_regular
from eideticnet.serving.errors import ServingError

_MOST_BYTES = 1 << 20


class Key:
    """A token, or the file (``keys.json``) that holds those of a server that may restart."""

    def __init__(self, source: str | Path, use: Literal["inference", "management"] = "inference") -> None:
        if not isinstance(source, (str, Path)):
            raise ServingError(f"a key is a token or the Path of a keys.json, not a {type(source).__name__}")
        if isinstance(source, str) and source.endswith(".json"):
            raise ServingError(f"{source} is no token: give a file that holds one as a Path")
        self._file = source if isinstance(source, Path) else None
        self._use = use
        self._token = self._checked(source.strip()) if isinstance(source, str) else self._read()

    def header(self) -> str:
        """The value of the ``Authorization`` header."""
        return f"Bearer {self._token}"

    @property
    def may_change(self) -> bool:
        """Whether it is read from a file."""
        return self._file is not None

    def changed(self, since: str) -> bool:
        """Read the file again; whether it holds another token than that of the header ``since``. (Another
        thread may have read it in between.)"""
        with contextlib.suppress(ServingError):  # not there while the server starts
            self._token = self._read()
        return self.header() != since

    def _read(self) -> str:
        assert self._file is not None
        try:
            token = str(json.loads(read_regular(self._file, _MOST_BYTES))[self._use]).strip()
        except UnreadableError as error:
            raise ServingError(str(error)) from None
        except FileNotFoundError:
            raise ServingError(f"{self._file}: no {self._use} key: there is no such file") from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ServingError(f"{self._file}: no {self._use} key ({type(error).__name__})") from None
        return self._checked(token)

    def _checked(self, token: str) -> str:
        """``token``, if a header can hold it."""
        if not token:
            where = f"of {self._file} " if self._file else ""
            raise ServingError(f"the key {where}is empty; expected a token, or a keys.json as a Path")
        if not token.isascii() or not token.isprintable():
            raise ServingError(
                "the key holds what no token does: letters, digits, - and _ are what it may hold"
            )
        return token

    def __repr__(self) -> str:
        return f"Key({str(self._file) if self._file else '...'})"
