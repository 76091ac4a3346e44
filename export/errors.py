"""What can go wrong while a network is exported or an archive is read."""


class ExportError(Exception):
    """The network can't be exported as asked."""


class ArchiveError(Exception):
    """A model archive that can't be written or read."""


class InputsError(ArchiveError):
    """Real inputs that can't be read, or that no request to the archive could hold."""
