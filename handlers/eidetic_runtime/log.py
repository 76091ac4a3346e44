"""Structured logs: one JSON object a line. A log that can't be written never fails a request."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

LOG = "EIDETIC_LOG"
_STDERR = 2


class JsonLines(logging.Handler):
    """Writes a line for each event to the file ``path`` (stderr if empty), with ``always`` in it and what
    ``extra={"fields": {...}}`` adds. Each line is one write, so several workers may share a file."""

    def __init__(self, path: str, always: dict[str, Any]) -> None:
        super().__init__()
        self._path, self._always, self._torn, self._file = path, always, False, _STDERR
        if path:
            try:
                self._file = self._open()
            except OSError as error:
                self._write(
                    f'{{"level": "warning", "message": "logs go to stderr: {LOG}: {error.strerror}"}}\n'
                )

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)

    def _follow(self) -> None:
        """Begin a new file if the old one was moved away, as logrotate does. Where that fails, the open one
        is kept."""
        try:
            same = os.path.samestat(os.fstat(self._file), Path(self._path).stat())
        except OSError:
            same = False
        with contextlib.suppress(OSError):
            if not same:
                new = self._open()
                os.close(self._file)
                self._file = new

    def emit(self, record: logging.LogRecord) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{now}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **self._always,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["trace"] = logging.Formatter().formatException(record.exc_info)
        self._write(json.dumps(line, ensure_ascii=True, default=str) + "\n")

    def _write(self, line: str) -> None:
        if self._file != _STDERR:
            self._follow()
        data = ("\n" + line if self._torn else line).encode()
        try:
            written = os.write(self._file, data)
        except OSError:  # a full disk: this line is lost and the answer is not
            return
        self._torn = written < len(data)  # half a line went in; the next one begins on a line of its own


def open_log(always: dict[str, Any]) -> logging.Logger:
    """The logger ``eidetic``, which all of the handler's modules write to, going where the environment
    variable EIDETIC_LOG says."""
    log = logging.getLogger("eidetic")
    log.handlers[:] = [JsonLines(os.environ.get(LOG, ""), always)]
    log.propagate = False
    log.setLevel(logging.INFO)
    return log
