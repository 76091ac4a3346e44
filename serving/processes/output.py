"""What an engine prints, in a file that may be moved away: the next line begins a new one (logrotate).

Nothing that happens to the file reaches the engine, and its last lines are known without it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO

_CHUNK = 1 << 16
_TAIL_LINES = 30


class Output:
    """Copies ``pipe`` to the file ``path`` until its end, in a thread of its own."""

    def __init__(self, pipe: IO[bytes], path: Path) -> None:
        self._pipe, self._path = pipe, path
        self._file: IO[bytes] | None = None
        self._lines: deque[bytes] = deque(maxlen=_TAIL_LINES)
        self._thread = threading.Thread(target=self._copy, name="output", daemon=True)
        self._thread.start()

    def tail(self) -> str:
        """The last lines."""
        return b"".join(self._lines).decode(errors="replace").rstrip()

    def close(self, seconds: float = 1.0) -> None:
        """Wait for the rest; the process that printed has ended."""
        self._thread.join(seconds)

    def _copy(self) -> None:
        with self._pipe:
            for line in iter(lambda: self._pipe.readline(_CHUNK), b""):
                self._lines.append(line)
                with suppress(OSError):  # a full disk or a folder that is gone: the line is lost
                    self._opened().write(line)
        if self._file is not None:
            self._file.close()

    def _opened(self) -> IO[bytes]:
        """The file at ``path``, opened again if it was replaced or removed."""
        if self._file is not None:
            with suppress(OSError):
                if os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
                    return self._file
            self._file.close()
            self._file = None
        # a pipe that is not read would block the engine
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666)
        self._file = os.fdopen(descriptor, "ab", buffering=0)
        return self._file
