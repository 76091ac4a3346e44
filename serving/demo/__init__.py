"""A page on this machine to try a running server and to watch it."""
