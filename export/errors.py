"""What can go wrong while a network is exported or an archive is read, and letting any terminal tell it."""

import sys
from io import TextIOWrapper


class ExportError(Exception):
    """The network can't be exported as asked."""


class ArchiveError(Exception):
    """A model archive that can't be written or read."""


class InputsError(ArchiveError):
    """Real inputs that can't be read, or that no request to the archive could hold."""


def spell_out() -> None:
    """Letters that the encoding of an output doesn't have are spelled out there, instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
