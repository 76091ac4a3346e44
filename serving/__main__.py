"""``python -m eideticnet.serving``: the commands, with signals and errors as a shell expects them."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from eideticnet.export.errors import spell_out

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_HEEDED = (signal.SIGINT, signal.SIGTERM)
"""Also by whoever was told to ignore them, as what a shell starts in the background is."""
INTERRUPTED = 130


def main() -> None:
    """Run a command line; our own errors become one line on standard error."""
    heeded = signal.getsignal(signal.SIGINT)
    if heeded is signal.default_int_handler:  # no traceback of whatever is being imported
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    spell_out()
    from eideticnet.serving.commands import app, failed
    from eideticnet.serving.supervise.trouble import FORESEEN

    for each in STOP_SIGNALS:
        if each in _HEEDED or signal.getsignal(each) != signal.SIG_IGN:  # as by nohup
            signal.signal(each, _interrupt)
    try:
        app()
    except FORESEEN as error:
        failed(error)
        raise SystemExit(1) from None
    except MemoryError as error:
        failed(MemoryError(f"there is not memory enough: {error}"))
        raise SystemExit(1) from None
    except (KeyboardInterrupt, SystemExit) as end:
        code = getattr(end, "code", INTERRUPTED)  # typer makes the one of the other
        if code == INTERRUPTED and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            print("interrupted", file=sys.stderr)
        raise SystemExit(code) from None


def _interrupt(number: int, frame: FrameType | None) -> None:
    """The first signal begins the stop; those that follow must not break it off half-way."""
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
