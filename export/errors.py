"""What can go wrong while a network is exported or an archive is read."""

from eideticnet.errors import EideticError

NO_ARCHIVE = "it is no EideticNet archive; eidetic export RUN writes them"
NO_DELTA = "it is no EideticNet delta; eidetic delta writes them"


class ExportError(EideticError):
    """The network can't be exported as asked."""


class ArchiveError(EideticError):
    """A model archive that can't be written or read."""


class InputsError(ArchiveError):
    """Real inputs that can't be read, or that no request to the archive could hold."""
