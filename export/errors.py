"""What can go wrong while a network is exported or an archive is read."""


class ExportError(Exception):
    """The network can't be exported as asked."""


class ArchiveError(Exception):
    """A model archive that can't be written or read."""
