"""A server's folder: what is served, the archives, who runs, and where."""
