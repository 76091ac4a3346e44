"""``python -m eideticnet.export``: the commands, with signals and errors as a shell expects them."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from eideticnet.export.errors import spell_out


def main() -> None:
    """Run a command line; our own errors become one line on standard error."""
    heeded = signal.getsignal(signal.SIGINT)
    if heeded is signal.default_int_handler:  # no traceback of whatever is being imported
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    spell_out()
    from eideticnet.export.commands import app, failed
    from eideticnet.export.errors import ArchiveError, ExportError

    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, heeded if heeded == signal.SIG_IGN else _stop)
    try:
        app()
    except (ExportError, ArchiveError, OSError) as error:
        failed(error)
        raise SystemExit(1) from None
    except MemoryError as error:
        failed(MemoryError(f"there is not memory enough: {error}"))
        raise SystemExit(1) from None


def _stop(number: int, frame: FrameType | None) -> None:
    print("interrupted: no file was left half-written", file=sys.stderr)
    raise SystemExit(128 + number)  # so that temporary folders are removed on the way out


if __name__ == "__main__":
    main()
