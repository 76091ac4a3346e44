"""Load on a running server, and objectives that it has to meet. Knows HTTP alone."""
