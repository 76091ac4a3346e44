"""Pages: the blocks of neighbouring owners run as one layer each."""
